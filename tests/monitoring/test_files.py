"""The dashboard and the alert rules: their form, and that the alerts fire when they should.

tests/e2e/test_seeing.py looks whether the metrics that they name exist.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests.monitoring.promql import RULES, Groups, dashboard, expressions, parsed, rules, selectors

PROMTOOL = shutil.which("promtool")


@pytest.mark.parametrize(("place", "expression"), expressions().items())
def test_every_expression_is_promql_about_named_metrics(place: str, expression: str) -> None:
    named = [name for name, _ in selectors(parsed(expression))]
    assert named, place
    assert all(named), place


def test_what_is_no_promql_is_found() -> None:
    with pytest.raises(ValueError, match="parenthesis"):
        parsed("sum by (le (lmaas_x[5m])")


def test_each_alert_has_its_own_name() -> None:
    names = [rule.alert for rule in rules()]
    assert len(names) == len(set(names)) > 10


def test_a_misspelt_member_of_a_rule_is_found() -> None:
    wrong = yaml.safe_load(RULES.read_text())
    wrong["groups"][0]["rules"][0]["annotation"] = {}
    with pytest.raises(ValidationError):
        Groups.model_validate(wrong)


def test_the_panels_have_places_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        apart_in_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_in_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_in_x or apart_in_y


def test_the_variables_of_the_dashboard_are_those_that_its_panels_use() -> None:
    assert [variable["name"] for variable in dashboard()["templating"]["list"]] == ["datasource", "model"]
    used = " ".join(target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", []))
    assert "$model" in used


HOST = 'job="lmaas", instance="a"'
# Series by the minute, and when which alert fires.
CASES = [
    ({f"up{{{HOST}}}": "1 0x10"}, "5m", "LmaasDown"),
    ({f'lmaas_servers{{{HOST}, state="ready"}}': "1 0x10"}, "5m", "LmaasNoServer"),
    ({f'lmaas_deployments{{{HOST}, state="failed"}}': "0 1x10"}, "5m", "LmaasDeploymentNotReady"),
    (
        {
            f'lmaas_http_requests_total{{{HOST}, route="/v1/generate", status="200"}}': "0+90x20",
            f'lmaas_http_requests_total{{{HOST}, route="/v1/generate", status="500"}}': "0+10x20",
        },
        "15m",
        "LmaasErrors",
    ),
    ({f'lmaas_deployment_rollbacks_total{{{HOST}, model="m"}}': "_x3 1x10"}, "5m", "LmaasRollback"),
    (
        {
            f'lmaas_engine_kv_cache_usage_ratio{{{HOST}, model="m", version="1"}}': "0.99x20",
            f'lmaas_engine_waiting{{{HOST}, model="m", version="1"}}': "3x20",
        },
        "15m",
        "LmaasKvCacheFull",
    ),
    (
        {
            f'lmaas_task_time_to_first_token_seconds_bucket{{{HOST}, model="m", le="2.5"}}': "0+1x20",
            f'lmaas_task_time_to_first_token_seconds_bucket{{{HOST}, model="m", le="5"}}': "0+9x20",
            f'lmaas_task_time_to_first_token_seconds_bucket{{{HOST}, model="m", le="+Inf"}}': "0+9x20",
        },
        "16m",
        "LmaasSlowFirstToken",
    ),
]


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is in Debian's package prometheus")
@pytest.mark.parametrize(("series", "moment", "alert"), CASES, ids=[case[2] for case in CASES])
def test_an_alert_fires(series: dict[str, str], moment: str, alert: str, tmp_path: Path) -> None:
    """The only one, with Prometheus' own evaluation."""
    known = [rule.alert for rule in rules()]
    text: dict[str, Any] = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f'count by (alertname) (ALERTS{{alertname="{name}", alertstate="firing"}})',
                        "eval_time": moment,
                        "exp_samples": (
                            [{"labels": f'{{alertname="{name}"}}', "value": 1}] if name == alert else []
                        ),
                    }
                    for name in known
                ],
            }
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(text))
    ended = subprocess.run([str(PROMTOOL), "test", "rules", str(file)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
