"""README's curl lines, pasted, give the answers that stand under them."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest

from tests.e2e.appliance import ROOT, Appliance

ADDRESS = "http://127.0.0.1:8080"
TOLERANCE = 0.05
VOLATILE = {"id", "timings"}  # of each answer alone
EXAMPLES = re.findall(
    r"```console\n\$ (curl .*?)\n(\{.*?\})\n```", (ROOT / "README.md").read_text(), re.DOTALL
)


def alike(shown: Any, got: Any) -> bool:
    """Equal but for the last digits of numbers."""
    if isinstance(shown, float) and isinstance(got, float):
        return abs(shown - got) <= TOLERANCE
    if isinstance(shown, dict) and isinstance(got, dict):
        return shown.keys() == got.keys() and all(
            alike(shown[key], got[key]) for key in shown.keys() - VOLATILE
        )
    if isinstance(shown, list) and isinstance(got, list):
        if shown and isinstance(shown[0], dict) and "label" in shown[0]:
            # Labels of nearly the same score change places between processors.
            shown, got = (sorted(items, key=lambda item: str(item["label"])) for items in (shown, got))
        return len(shown) == len(got) and all(map(alike, shown, got))
    return bool(shown == got)


def test_there_is_one_for_each_task() -> None:
    commands = " ".join(command for command, _ in EXAMPLES)
    assert all(f"/v1/{task}" in commands for task in ("generate", "classify", "infer", "nlu"))


@pytest.mark.parametrize(("command", "shown"), EXAMPLES)
def test_pasted_it_answers_as_shown(appliance: Appliance, command: str, shown: str) -> None:
    pasted = command.replace(ADDRESS, appliance.url).replace("\\\n", " ")
    ended = subprocess.run(["bash", "-c", pasted], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert alike(json.loads(shown), json.loads(ended.stdout)), ended.stdout
