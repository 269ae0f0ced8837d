"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

import kernels as kernels  # switches ONNX Runtime's telemetry off, before a test imports it
from bench.chaos.services import Postgres, S3Server
from tests.e2e.appliance import free_port

# What the tests' own clients reach lies on this machine.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost,::1"
# Threads that wait for each other on a busy machine are slower than one.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests of a process; a test that ends it makes one of its own."""
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for all tests of a process; a test that ends it makes one of its own."""
    server = S3Server(free_port(), tmp_path_factory.mktemp("s3") / "log")
    yield server
    server.kill()
