"""The bundled models: int8 is within the quality budget, and their cards say what a fresh export measures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from api.back.cluster.budget import QualityBudget
from cli.show import quality
from export.pipeline import export_checkpoint
from runtime.contract import Variant

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e-\d+)?")
SHARE = re.compile(r"([+-]?[\d.]+) %")
MODELS = Path(__file__).resolve().parents[3] / "models"


@pytest.mark.parametrize("name", ["mini-lm", "mini-nli", "mini-nlu", "mini-sentiment"])
def test_int8_is_within_the_budget(name: str, tmp_path: Path) -> None:
    manifest = export_checkpoint(
        MODELS / name, tmp_path / "out", name=name, variants=[Variant.FP32, Variant.INT8]
    )
    assert QualityBudget().excess(manifest, Variant.INT8) == []
    card = (MODELS / name / "README.md").read_text("utf-8")
    (row,) = [line for line in card.splitlines() if line.startswith("| int8 |")]
    words = quality(manifest.variants[Variant.INT8].quality)
    told = row.split(" | ")[2].removesuffix(" |")
    assert NUMBER.sub("", told) == NUMBER.sub("", words)
    # Another processor rounds some activations otherwise.
    shares = [[float(text) for text in SHARE.findall(line)] for line in (told, words)]
    assert shares[0] == pytest.approx(shares[1], abs=0.6)
