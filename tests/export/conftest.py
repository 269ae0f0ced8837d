"""Checkpoints and artifacts that several test files read; each is made once and never changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from export.pipeline import export_checkpoint
from runtime.contract import Variant
from tests.export import checkpoints

VARIANTS = tuple(Variant)
MODELS = Path(__file__).resolve().parents[2] / "models"
_SAVE: dict[str, Callable[[Path], object]] = {
    "lm": checkpoints.save_lm,
    "classifier": checkpoints.save_classifier,
    "tagger": checkpoints.save_tagger,
    "nlu": lambda folder: checkpoints.save_nlu(folder, echo=True),
    "reader": checkpoints.save_reader,
    "pair_reader": checkpoints.save_pair_reader,
    "joint_reader": checkpoints.save_joint_reader,
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny random checkpoint, by its name in `_SAVE`."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("checkpoints") / name
            _SAVE[name](made[name])
        return made[name]

    return make


@pytest.fixture(scope="session")
def artifact(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """What export makes of `checkpoint`, all variants."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("artifacts") / name
            export_checkpoint(checkpoint(name), made[name], name=name, variants=VARIANTS)
        return made[name]

    return make


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What export makes of a bundled checkpoint: fp32 and int8."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("bundled") / name
            export_checkpoint(MODELS / name, made[name], name=name, variants=[Variant.FP32, Variant.INT8])
        return made[name]

    return make
