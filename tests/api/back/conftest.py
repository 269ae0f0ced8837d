"""Archives of tiny checkpoints, and stores on a real SQLite file and a real folder of blobs."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from api.back.settings import BackSettings
from export.archive import pack_folder
from tests.api.back.stores import Stores, open_stores
from tests.export.checkpoints import save_classifier, save_lm


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three checkpoints, packed once and never changed: two language models and a classifier."""
    root = tmp_path_factory.mktemp("uploads")
    save_lm(root / "lm")
    save_lm(root / "other-lm", n_layer=1)
    save_classifier(root / "classifier", id2label={0: "bad", 1: "fair", 2: "good"})
    packed = {}
    for name in ("lm", "other-lm", "classifier"):
        packed[name] = root / f"{name}.tar.gz"
        pack_folder(root / name, packed[name])
    return packed


@pytest.fixture
def upload(archives: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of an archive, which the store may take."""

    def copy(name: str) -> Path:
        return Path(shutil.copy(archives[name], tmp_path / f"{name}.upload"))

    return copy


@pytest.fixture
def settings(tmp_path: Path) -> BackSettings:
    return BackSettings(home=tmp_path / "home")


@pytest.fixture
async def stores(settings: BackSettings) -> AsyncIterator[Stores]:
    async with open_stores(settings) as opened:
        yield opened
