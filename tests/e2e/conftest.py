"""The appliance that most end-to-end tests share, started once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.appliance import MAX_UNPACKED_BYTES, Appliance, running


@pytest.fixture(scope="session")
def converted_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an appliance converted and served the bundled models; it is copied, never opened again."""
    home = tmp_path_factory.mktemp("converted") / "home"
    with running(home):
        pass
    return home


@pytest.fixture(scope="session")
def appliance(converted_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    home = Path(shutil.copytree(converted_home, tmp_path_factory.mktemp("appliance") / "home"))
    with running(home, max_unpacked_bytes=str(MAX_UNPACKED_BYTES)) as started:
        yield started
