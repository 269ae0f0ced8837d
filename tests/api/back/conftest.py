"""Archives of tiny checkpoints, stores on real SQLite and real blobs, a real Triton over three versions."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from api.back.backend import Backend
from api.back.cluster.quality_gate import QualityGate
from api.back.settings import BackSettings
from bench.chaos.services import S3Server
from export.archive import pack_folder
from runtime.config import EngineSettings
from tests.api.back.stores import Stores, open_stores
from tests.export.checkpoints import save_classifier, save_lm

# Of a home folder; a shell, a URL or a list of folders would take each of these characters for its own.
AWKWARD_NAME = """a  home of 'its' "own" $HOME `x` %20?#;:,&|*\\"""


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
    return BackSettings(home=tmp_path / AWKWARD_NAME)


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket, whose server this process knows."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.create_bucket()


@pytest.fixture
async def stores(settings: BackSettings) -> AsyncIterator[Stores]:
    async with open_stores(settings) as opened:
        yield opened


@pytest.fixture(scope="session")
async def converted_home(
    archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> Path:
    """A home with tiny/1, tiny/2 and head/1 ready; it is copied, never opened again."""
    root = tmp_path_factory.mktemp("converted")
    async with open_stores(BackSettings(home=root / "home")) as stores:
        for name, archive in (("tiny", "lm"), ("tiny", "other-lm"), ("head", "classifier")):
            upload = Path(shutil.copy(archives[archive], root / "upload"))
            version, _ = await stores.models.add_upload(name, upload, archive)
            await stores.converter.convert(version)
    return root / "home"


@pytest.fixture(scope="module")
def cluster_settings(converted_home: Path, tmp_path_factory: pytest.TempPathFactory) -> BackSettings:
    home = tmp_path_factory.mktemp("cluster") / AWKWARD_NAME
    shutil.copytree(converted_home, home)
    return BackSettings(
        home=home,
        budget=QualityGate(perplexity_change=1.0, top1_agreement=0.0),  # random weights are hard to round
        engine=EngineSettings(num_slots=4, threads=1),
        probe_interval_seconds=1.0,
        drain_seconds=2.0,
    )


@pytest.fixture(scope="module")
async def backend(cluster_settings: BackSettings, anyio_backend: str) -> AsyncIterator[Backend]:
    async with Backend.open(cluster_settings) as opened:
        yield opened
