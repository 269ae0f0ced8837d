"""docs/examples.md, pasted: two sentences are trained on and served; transformers finds the same words."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.appliance import ROOT, Appliance, foreign_variables

DOCUMENT = (ROOT / "docs" / "examples.md").read_text()
ADDRESS = "http://127.0.0.1:8080"
BEGIN = 'set -e\nlmaas() { "$PYTHON" -m lmaas "$@"; }\n'
TOLERANCE = 0.05  # of a probability: int8 against fp32


def blocks(language: str) -> str:
    return "".join(re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL))


def paste(folder: Path, url: str) -> str:
    """Run the document's commands in `folder`, with the `lmaas` of this checkout. Returns what they print."""
    commands = re.sub(r"^\$ ", "", blocks("console"), flags=re.MULTILINE).replace(ADDRESS, url)
    environment = {"LMAAS_URL": url, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
    environment["no_proxy"] = "127.0.0.1"  # for curl; `lmaas` takes no proxy
    ended = subprocess.run(
        ["bash", "-c", BEGIN + commands],
        cwd=folder,
        env=foreign_variables() | environment,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_two_sentences_and_the_words_that_follow(
    appliance: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    try:
        printed = paste(tmp_path, appliance.url)
    finally:
        appliance.http.delete("/v1/models/two", params={"force": True})
    candidates = json.loads(printed[printed.index('{"model"') :])["candidates"]
    monkeypatch.chdir(tmp_path)
    exec(blocks("python"), {})
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
