"""The dashboard and the alert rules as the tests read them, and what their PromQL names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml
from pydantic import BaseModel, ConfigDict, Field

FOLDER = Path(__file__).resolve().parents[2] / "monitoring"
RULES = FOLDER / "alerts.yaml"
INTERVAL = "$__rate_interval"  # Grafana puts a duration in its place
OF_PROMETHEUS = {"up"}  # it makes this metric itself
OF_SCRAPING = {"job", "instance"}  # labels that it adds to every metric


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Annotations(Strict):
    summary: str = Field(min_length=10)
    description: str = Field(min_length=20)
    runbook: str = Field(min_length=20)


class Labels(Strict):
    severity: str = Field(pattern="^(critical|warning)$")


class Rule(Strict):
    """An alerting rule as Prometheus defines it; a misspelt member fails."""

    alert: str = Field(pattern="^Lmaas[A-Za-z]+$")
    expr: str
    hold: str | None = Field(default=None, alias="for", pattern=r"^\d+[smh]$")
    labels: Labels
    annotations: Annotations


class Group(Strict):
    name: str
    rules: list[Rule]


class Groups(Strict):
    groups: list[Group]


def rules() -> list[Rule]:
    read = Groups.model_validate(yaml.safe_load(RULES.read_text()))
    return [rule for group in read.groups for rule in group.rules]


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return read


def expressions() -> dict[str, str]:
    """All of both files, by the place where each stands."""
    found = {rule.alert: rule.expr for rule in rules()}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            found[f"{panel['title']} {target['refId']}"] = target["expr"].replace(INTERVAL, "5m")
    return found


def parsed(expression: str) -> Any:
    """The tree. Raises ValueError where it is not PromQL."""
    return promql_parser.parse(expression)


def selectors(node: Any) -> Iterator[tuple[str, set[str]]]:
    """Each metric that the tree names, with the labels that select its series."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name or "", {matcher.name for matcher in node.matchers.matchers}
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        if (child := getattr(node, name, None)) is not None:
            yield from selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from selectors(child)
