"""The appliance that most end-to-end tests share, started once."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.appliance import MAX_UNPACKED_BYTES, Appliance, running


@pytest.fixture(scope="session")
def converted_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an appliance converted and served the bundled models; it is copied, never opened again.

    Processes that share the tests out among them share it.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, home = base / "converted", base / "converted" / "home of its own"
    with (base / "converted.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            with running(home):
                pass
            (folder / "done").touch()
    return home


@pytest.fixture(scope="session")
def appliance(converted_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    home = Path(shutil.copytree(converted_home, tmp_path_factory.mktemp("appliance") / "home of its own"))
    with running(home, max_unpacked_bytes=str(MAX_UNPACKED_BYTES)) as started:
        yield started
