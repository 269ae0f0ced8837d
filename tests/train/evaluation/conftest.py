"""Tiny checkpoints with their fp32 artifacts, and rows for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from export.pipeline import export_checkpoint
from runtime.contract import Variant
from tests.export import checkpoints

LABELS = {0: "bad", 1: "fair", 2: "good"}
SAVE: dict[str, Callable[[Path], object]] = {
    "lm": checkpoints.save_lm,
    "classifier": lambda folder: checkpoints.save_classifier(folder, id2label=LABELS),
    "multi": lambda folder: checkpoints.save_classifier(
        folder, id2label=LABELS, problem_type="multi_label_classification"
    ),
    "regression": lambda folder: checkpoints.save_classifier(
        folder, num_labels=1, id2label={0: "value"}, problem_type="regression"
    ),
    "reader": lambda folder: checkpoints.save_reader(folder, id2label=LABELS),
    "nlu": lambda folder: checkpoints.save_nlu(folder, echo=True),
    "tagger": checkpoints.save_tagger,
}
TEXTS = ["the little cat sat", "it rains a little", "the dog ran home", "a friend", "little dog", "mat"]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """The folders of a checkpoint and of its artifact."""
    known: dict[str, tuple[Path, Path]] = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in known:
            root = tmp_path_factory.mktemp(name)
            SAVE[name](root / "checkpoint")
            export_checkpoint(
                root / "checkpoint", root / "artifact", name=f"tiny-{name}", variants=[Variant.FP32]
            )
            known[name] = root / "checkpoint", root / "artifact"
        return known[name]

    return make
