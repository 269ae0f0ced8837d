"""What the documents for operators name exists: commands, settings, metrics, alerts, routes, chart values."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import lmaas
from api.config import PREFIX, Settings
from api.front.routes import ENDPOINTS
from bench.drills.alone import ALONE
from bench.drills.shared import SHARED
from client.http import API_KEY
from tests.monitoring.promql import expressions, parsed, rules, selectors

ROOT = Path(__file__).resolve().parents[1]
RUNBOOK = (ROOT / "docs/operations.md").read_text()
TEXT = RUNBOOK + (ROOT / "docs/containers.md").read_text()
BLOCKS = re.findall(r"^```(?:sh|bash)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
INLINE = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", TEXT, flags=re.DOTALL | re.MULTILINE))
COMMAND = re.compile(r"(?<![\w/.-])lmaas ([a-z][^`|;&>\n]*)")
VALUE = re.compile(r"(?:api|triton|rbac|networkPolicy|storage|monitoring)(?:\.\w+)+")
OF_COMMANDS = {API_KEY, "LMAAS_URL"}  # no settings of the server


def commands() -> set[str]:
    """The arguments of each `lmaas` in a block or in a line; comments are left out."""
    code = [re.sub(r"\s#.*", "", block) for block in BLOCKS] + INLINE
    return {found.strip() for part in code for found in COMMAND.findall(part)}


def refused(arguments: str) -> bool:
    """With `--help` a command reads all of its options, and does nothing."""
    return CliRunner().invoke(lmaas.app, [*shlex.split(arguments), "--help"]).exit_code != 0


def test_every_command_exists_with_its_options() -> None:
    assert len(commands()) > 20
    assert [each for each in sorted(commands()) if refused(each)] == []


@pytest.mark.parametrize("wrong", ["deploi my-model", "deploy my-model --versions 2"])
def test_a_command_that_does_not_exist_is_found(wrong: str) -> None:
    assert refused(wrong)


def test_the_shell_can_read_each_block() -> None:
    ended = subprocess.run(["bash", "-n"], input="\n".join(BLOCKS), capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_every_setting_exists() -> None:
    named = set(re.findall(r"LMAAS_[A-Z_0-9]+", TEXT))
    assert named - {PREFIX + field.upper() for field in Settings.model_fields} - OF_COMMANDS == set()


def test_every_metric_is_on_the_dashboard_or_in_an_alert() -> None:
    """tests/e2e/test_seeing.py finds those on a real server."""
    seen = {name for text in expressions().values() for name, _ in selectors(parsed(text))}
    named = {name for name in INLINE if re.fullmatch(r"(lmaas|process)_\w+", name)}
    assert len(named) > 5
    histograms = {re.sub("_(bucket|sum|count)$", "", name) for name in seen}
    assert named - seen - histograms == set()


def test_every_alert_has_a_line() -> None:
    assert re.findall(r"^\| `(Lmaas\w+)`", RUNBOOK, re.MULTILINE) == [rule.alert for rule in rules()]


def test_every_route_exists() -> None:
    routes = [re.sub(r"{\w+}", "[^/]+", endpoint.path) for endpoint in ENDPOINTS]
    named = {path.rstrip(".") for path in re.findall(r"(?:/v1|/health)/[a-z/]+[\w./-]*", TEXT)}
    assert len(named) > 5
    assert [path for path in sorted(named) if not any(re.fullmatch(route, path) for route in routes)] == []


def test_every_value_of_the_chart_exists() -> None:
    named = [name for name in INLINE if VALUE.fullmatch(name)]
    assert named
    for name in named:
        found = yaml.safe_load((ROOT / "helm/values.yaml").read_text())
        for part in name.split("."):
            assert part in found, name
            found = found[part]


def test_every_drill_can_be_repeated() -> None:
    """By `python -m bench drills`, which has the name of each row of the table."""
    table = RUNBOOK.partition("| drill | inflict |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)
    assert sorted(rows[1:]) == sorted([*ALONE, *SHARED])
