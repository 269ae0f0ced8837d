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
# In this process and in those that it starts: torch's threads that wait for each other on a busy machine are
# slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
# Hundreds of processes import the same modules: the first one compiles them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# These files start appliances with settings that no other file has.
APART = tuple(
    f"tests/e2e/test_{name}.py"
    for name in ("healing", "foreground_triton", "facades", "access", "servers", "bench_compare", "seeing")
)
# The other files of each of these folders share servers and converted models: one process gets them all, and
# makes these once.
SHARED = ("tests/e2e/", "tests/api/back/")
# What takes longest comes first, so that no process is left with it when the others are done.
FIRST = (*SHARED, *APART, "tests/train/", "tests/export/")


def scope(nodeid: str) -> str:
    """What one process gets: a file of APART, the rest of a folder of SHARED, or a file of another folder."""
    file = nodeid.partition("::")[0]
    return file if file in APART else next((each for each in SHARED if file.startswith(each)), file)


def place(nodeid: str) -> int:
    """Of a test's scope, or of its folder, in FIRST; all others are behind them."""
    found = scope(nodeid)
    if found not in FIRST:
        found = "/".join([*found.split("/")[:2], ""])
    return FIRST.index(found) if found in FIRST else len(FIRST)


class FolderScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """A process gets a whole scope."""

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)


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
