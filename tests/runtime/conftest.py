"""One tiny language model for the tests of the engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.contract import Variant
from runtime.engine import Engine
from runtime.load import load_engine
from tests.runtime.engines import version_folder
from tests.runtime.invariants import Invariants

OpenEngine = Callable[..., Engine]


@pytest.fixture(scope="session", autouse=True)
def invariants() -> Iterator[Invariants]:
    with Invariants().recording() as recorded:
        yield recorded


@pytest.fixture(autouse=True)
def invariants_hold(invariants: Invariants) -> Iterator[None]:
    """After every test, in every core and engine of it, and in those that outlive it."""
    yield
    invariants.check()


@pytest.fixture(scope="session")
def lm_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 of two layers, context 96, as transformers writes it."""
    from tests.export.checkpoints import save_lm

    folder = tmp_path_factory.mktemp("lm") / "checkpoint"
    folder.mkdir()
    save_lm(folder)
    return folder


@pytest.fixture(scope="session")
def lm_artifact(lm_checkpoint: Path) -> Path:
    from export.pipeline import export_checkpoint

    artifact = lm_checkpoint.parent / "artifact"
    export_checkpoint(
        lm_checkpoint, artifact, name="tiny-lm", variants=[Variant.FP32, Variant.INT8, Variant.INT4]
    )
    return artifact


@pytest.fixture(scope="session")
def engine(lm_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Shared by tests that leave nothing behind in it."""
    folder = version_folder(lm_artifact, tmp_path_factory.mktemp("version") / "1", num_slots=8)
    opened = load_engine(folder)
    yield opened
    opened.close()


@pytest.fixture
def open_engine(lm_artifact: Path, tmp_path: Path) -> Iterator[OpenEngine]:
    """Opens an engine with the given settings."""
    opened: list[Engine] = []
    numbers = itertools.count()

    def open_one(**settings: Any) -> Engine:
        folder = version_folder(lm_artifact, tmp_path / str(next(numbers)), **settings)
        opened.append(load_engine(folder))
        return opened[-1]

    yield open_one
    for engine in opened:
        engine.close()
