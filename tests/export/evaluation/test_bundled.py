"""The bundled models: int8 is within the quality budget, and their cards say what a fresh export measures."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from api.back.cluster.quality_gate import QualityGate
from cli.show import quality
from runtime.contract import Variant
from runtime.manifest import Manifest

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e-\d+)?")
SHARE = re.compile(r"([+-]?[\d.]+) %")
MODELS = Path(__file__).resolve().parents[3] / "models"


@pytest.mark.parametrize("name", ["mini-lm", "mini-nli", "mini-nlu", "mini-sentiment"])
def test_int8_is_within_the_budget(name: str, bundled: Callable[[str], Path]) -> None:
    manifest = Manifest.load(bundled(name))
    assert QualityGate().excess(manifest, Variant.INT8) == []
    card = (MODELS / name / "README.md").read_text("utf-8")
    (row,) = [line for line in card.splitlines() if line.startswith("| int8 |")]
    words = quality(manifest.variants[Variant.INT8].quality)
    report = row.split(" | ")[2].removesuffix(" |")
    assert NUMBER.sub("", report) == NUMBER.sub("", words)
    # Another processor rounds some activations otherwise.
    shares = [[float(text) for text in SHARE.findall(line)] for line in (report, words)]
    assert shares[0] == pytest.approx(shares[1], abs=0.6)
