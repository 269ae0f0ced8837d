"""Writes what follows from values.yaml: values.schema.json, and the table of values in README.md.

    python -m helm.documents           # write both
    python -m helm.documents --check   # status 1 where one of them is not current

In values.yaml a value has its description above it (`# --`), and where its type alone says too little,
rules of JSON Schema (`# @schema {...}`). The settings of the façade come from their own class.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from api.config import Settings

CHART = Path(__file__).resolve().parent
KEY = re.compile(r"(?P<indent> *)(?P<name>[A-Za-z][A-Za-z0-9]*):(?P<rest>.*)")
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object"}
# Settings that follow from other values of the chart.
OWN = {
    "access", "allowed_hosts", "blob_url", "database_url", "device", "facades", "home", "host",
    "kubernetes_namespace", "kubernetes_selector", "models", "port", "servers", "tls_certificate", "tls_key",
    "triton_grpc_port", "triton_http_port", "triton_key", "triton_metrics_port", "triton_repository",
    "triton_urls",
}  # fmt: skip
PROBE = ("periodSeconds", "timeoutSeconds", "failureThreshold", "initialDelaySeconds")
SECRETS = {"callback_secret"}  # in values they would be readable: api.secretEnv is for them


@dataclass(frozen=True, slots=True)
class Value:
    """One line of values.yaml that has a name; `path` is the way to it."""

    path: tuple[str, ...]
    description: str
    rules: dict[str, Any]
    default: Any


def values(text: str) -> Iterator[Value]:
    """All values, in their order. Raises ValueError for one without a description."""
    tree = yaml.safe_load(text)
    path: list[str] = []
    notes: list[str] = []
    rules: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("# @schema "):
            rules = json.loads(stripped.removeprefix("# @schema "))
        elif stripped.startswith("#"):
            notes.append(stripped.removeprefix("#").strip())
        elif not stripped:
            notes, rules = [], {}
        elif (found := KEY.fullmatch(line)) is not None:
            depth = len(found["indent"]) // 2
            path = [*path[:depth], found["name"]]
            default = _at(tree, path)
            described = " ".join(notes)
            if described.startswith("-- "):
                yield Value(tuple(path), described.removeprefix("-- "), rules, default)
            elif found["rest"] and not _inside(path):
                raise ValueError(f"values.yaml:{number}: {'.'.join(path)} has no description")
            notes, rules = [], {}


def _inside(path: list[str]) -> bool:
    """Whether it is a part of a default that is one value, as `limits` of `resources` is."""
    return any(name in ("resources", "metrics") for name in path[:-1])


def _at(tree: Any, path: list[str]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def camel(name: str) -> str:
    """The name of a setting in the values: `max_in_flight` is `maxInFlight`."""
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)


def settings_schema() -> dict[str, Any]:
    """Of the settings that a user of the chart may set, in camelCase. docs/settings.md describes them."""
    known = Settings.model_json_schema()["properties"]
    shown = sorted(set(known) - OWN - SECRETS)
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {camel(name): _setting(known[name]) for name in shown},
    }


def _setting(rules: dict[str, Any]) -> dict[str, Any]:
    choices = rules.get("anyOf", [rules])
    kept = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "minLength", "pattern")
    schema = {name: value for choice in choices for name, value in choice.items() if name in kept}
    types = {choice.get("type") for choice in choices} - {"null"}
    if rules.get("title", "").endswith("Bytes"):  # also as 8GiB
        schema |= {"type": ["integer", "string"]}
    else:
        (schema["type"],) = types
    return schema


def schema() -> dict[str, Any]:
    """The content of values.schema.json."""
    tree: dict[str, Any] = {}
    for value in values((CHART / "values.yaml").read_text()):
        place = tree
        for name in value.path[:-1]:
            place = place.setdefault(
                name, {"type": "object", "additionalProperties": False, "properties": {}}
            )
            place = place["properties"]
        place[value.path[-1]] = _property(value)
    quantity = {"type": ["string", "number"], "pattern": "^[0-9]+(\\.[0-9]+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$"}
    amounts = {"type": "object", "additionalProperties": quantity}
    limits = {**amounts, "required": ["cpu", "memory"]}
    text, count = {"type": "string"}, {"type": "integer", "minimum": 1}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": False,
        # Helm gives `global` to every chart.
        "properties": {**tree, "global": {"type": "object"}},
        "$defs": {
            "settings": settings_schema(),
            "resources": _object({"requests": amounts, "limits": limits}, ["limits"]),
            "probe": _object(
                dict.fromkeys(PROBE, count),
                [],
            ),
            "tolerations": {
                "type": "object",
                "additionalProperties": _object(
                    {
                        "key": text,
                        "operator": {"enum": ["Exists", "Equal"]},
                        "value": text,
                        "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                        "tolerationSeconds": {"type": "integer"},
                    },
                    [],
                ),
            },
            "deployment": _object(
                {
                    "version": {"type": ["string", "integer"]},
                    "precision": {"enum": ["auto", "fp32", "fp16", "int8", "int4"]},
                    "replicas": count,
                    "maxReplicas": count,
                    "source": _object({"claim": text, "path": text}, ["claim"]),
                },
                [],
            ),
        },
    }


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object", "additionalProperties": False, "properties": properties, "required": required,
    }  # fmt: skip


def _property(value: Value) -> dict[str, Any]:
    described = {"description": value.description}
    if "$ref" in value.rules:
        return {**described, "allOf": [value.rules]}
    return {**described, "type": TYPES[type(value.default)], **value.rules}


def table() -> str:
    """The table of README.md."""
    lines = ["| value | default | what |", "| --- | --- | --- |"]
    for value in values((CHART / "values.yaml").read_text()):
        default = json.dumps(value.default) if value.default not in ("", {}) else ""
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{'.'.join(value.path)}` | {shown} | {value.description.replace('|', '/')} |")
    return "\n".join(lines)


def documents() -> dict[Path, str]:
    """Both files as they should be."""
    readme = (CHART / "README.md").read_text()
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return {
        CHART / "values.schema.json": json.dumps(schema(), indent=1, ensure_ascii=False) + "\n",
        CHART / "README.md": f"{head}{BEGIN}\n{table()}\n{END}{tail}",
    }


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    stale = {
        path: text for path, text in documents().items() if not path.exists() or path.read_text() != text
    }
    for path, text in stale.items():
        if "--check" in arguments:
            print(f"{path} is not current: run python -m helm.documents")
        else:
            path.write_text(text)
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
