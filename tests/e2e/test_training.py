"""docs/training.md, pasted: from a labelled CSV to answers of the trained model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.appliance import ROOT, Appliance, foreign_variables

DOCUMENT = (ROOT / "docs" / "training.md").read_text()


@pytest.mark.timeout(300)
def test_pasted_the_document_trains_and_serves(appliance: Appliance, tmp_path: Path) -> None:
    rows = re.search(r"```csv\n(.*?)```", DOCUMENT, re.DOTALL)
    assert rows is not None
    (tmp_path / "messages.csv").write_text(rows.group(1))
    blocks = re.findall(r"```console\n(.*?)```", DOCUMENT, re.DOTALL)
    commands = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert any(command.startswith("lmaas train classifier") for command in commands)
    command = tmp_path / "bin" / "lmaas"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lmaas "$@"\n')
    command.chmod(0o755)
    environment = foreign_variables() | {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "LMAAS_URL": appliance.url,
        # Threads that wait for each other on a busy machine are slower than one.
        "OMP_NUM_THREADS": "1",
    }
    try:
        for pasted in commands:
            ended = subprocess.run(
                ["bash", "-c", pasted], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert ended.returncode == 0, f"{pasted}\n{ended.stdout}{ended.stderr}"
        answer = appliance.post("/v1/classify", {"input": "Win a free prize now!", "model": "spam"})
        assert answer["results"][0]["label"] == "spam", json.dumps(answer)
    finally:
        appliance.http.delete("/v1/models/spam", params={"force": True})
