"""What holds for every test."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

import kernels as kernels  # switches ONNX Runtime's telemetry off, before a test imports it
from bench.chaos.services import Postgres, S3Server
from tests.e2e.appliance import free_port

# What the tests' own clients reach lies on this machine.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost,::1"
# Hundreds of processes import the same modules: the first one compiles them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# The files of each of these folders share servers and converted models: one process gets them all, and makes
# these once.
SHARED = ("tests/e2e/", "tests/api/back/")
# What takes longest comes first, so that no process is left with it when the others are done.
FIRST = (*SHARED, "tests/train/", "tests/export/")


def place(nodeid: str) -> int:
    """Of a test's folder in FIRST; all others are behind them."""
    return next((number for number, folder in enumerate(FIRST) if nodeid.startswith(folder)), len(FIRST))


class FolderScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """A process gets a whole folder of SHARED, or a file of another one."""

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in SHARED if nodeid.startswith(folder)), nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FolderScheduling | None:
    if config.option.dist != "loadfile":
        return None
    config.option.loadscopereorder = False  # the most tests are not the longest
    return FolderScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: place(item.nodeid))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What the imports and the collection make stays to the end: no garbage collection looks at it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        # Threads that wait for each other on a busy machine are slower than one.
        if torch := sys.modules.get("torch"):
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
