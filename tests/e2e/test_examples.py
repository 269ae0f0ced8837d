"""docs/examples.md, pasted: two sentences are trained on and served; transformers finds the same words."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.e2e.appliance import ROOT, Appliance
from tests.e2e.pages import blocks, paste_here, shown

TOLERANCE = 0.05  # of a probability: int8 against fp32


def test_two_sentences_and_the_words_that_follow(
    appliance: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    try:
        printed = paste_here(shown("examples", appliance.url), appliance.url)
    finally:
        appliance.http.delete("/v1/models/two", params={"force": True})
    candidates = json.loads(printed[printed.index('{"model"') :])["candidates"]
    exec(blocks("examples", "python"), {})
    expected = json.loads(capsys.readouterr().out)
    assert len(candidates) == len(expected) == 5
    shares = [candidate["probability"] for candidate in candidates]
    assert shares == sorted(shares, reverse=True)
    found = {candidate["text"]: candidate["probability"] for candidate in candidates}
    assert found.keys() & expected.keys()
    for text in found.keys() & expected.keys():
        assert math.isclose(found[text], expected[text], abs_tol=TOLERANCE), (found, expected)
    # Only a token as unlikely as another one may have changed places with it.
    assert all(
        max(found.get(text, 0), expected.get(text, 0)) < min(shares) + TOLERANCE
        for text in found.keys() ^ expected.keys()
    )
