"""The bundled models: int8 is within the quality budget, and their cards say what a fresh export measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.back.cluster.budget import QualityBudget
from cli.show import quality
from export.pipeline import export_checkpoint
from runtime.contract import Variant

MODELS = Path(__file__).resolve().parents[3] / "models"


@pytest.mark.parametrize("name", ["mini-lm", "mini-nli", "mini-nlu", "mini-sentiment"])
def test_int8_is_within_the_budget(name: str, tmp_path: Path) -> None:
    manifest = export_checkpoint(
        MODELS / name, tmp_path / "out", name=name, variants=[Variant.FP32, Variant.INT8]
    )
    assert QualityBudget().excess(manifest, Variant.INT8) == []
    card = (MODELS / name / "README.md").read_text("utf-8")
    (row,) = [line for line in card.splitlines() if line.startswith("| int8 |")]
    # Another processor may round the last digit differently: the words are compared, and the first figure.
    words = quality(manifest.variants[Variant.INT8].quality)
    assert row.split(" | ")[2].split()[0] == words.split()[0]
    assert "%" in row
