"""README's curl lines, pasted, give the answers that stand under them."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.e2e.appliance import ROOT, Appliance
from tests.e2e.pages import ADDRESS, alike

EXAMPLES = re.findall(
    r"```console\n\$ (curl .*?)\n(\{.*?\})\n```", (ROOT / "README.md").read_text(), re.DOTALL
)


def test_there_is_one_for_each_task() -> None:
    commands = " ".join(command for command, _ in EXAMPLES)
    assert all(f"/v1/{task}" in commands for task in ("generate", "classify", "infer", "nlu"))


@pytest.mark.parametrize(("command", "shown"), EXAMPLES)
def test_pasted_it_answers_as_shown(appliance: Appliance, command: str, shown: str) -> None:
    pasted = command.replace(ADDRESS, appliance.url).replace("\\\n", " ")
    ended = subprocess.run(["bash", "-c", pasted], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert alike(json.loads(shown), json.loads(ended.stdout)), ended.stdout


def test_its_python_runs(appliance: Appliance, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text()
    code = "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    exec(code.replace(ADDRESS, appliance.url), {"__name__": "readme"})
    assert capsys.readouterr().out.strip()
