"""Pages of the site that are made of the code: the API, the commands, the metrics, the manifest."""

from __future__ import annotations

import asyncio
import dataclasses
import html
import inspect
import json
import sys
import sysconfig
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import typer
from typer.cli import get_docs_for_click

import lmaas
from api.back.cluster.manager import ClusterManager
from api.config import Settings
from api.front.openapi import KEY, openapi_document
from api.front.reference import type_text
from api.front.routes import ENDPOINTS
from api.middle.metrics import ClusterCollector, Metrics
from runtime import manifest

Document = Mapping[str, Any]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def code(text: str) -> str:
    return f"`{text}`"


def prose(text: str) -> str:
    """As one cell of a table shows it: `<|sep|>` is no HTML and ends no cell."""
    return html.escape(text, quote=False).replace("|", "&#124;")


def api_page() -> str:
    """Every route with its parameters, body and answers, and the fields of each schema."""
    document = openapi_document(tuple(ENDPOINTS))
    parts = [f"# API\n\n{document['info']['description']}\n"]
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    for tag in dict.fromkeys(operation["tags"][0] for _, _, operation in operations):
        parts.append(f"\n## {tag}\n")
        parts += [_operation(document, *each) for each in operations if each[2]["tags"][0] == tag]
    parts.append("\n## Schemas\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts.append(f"\n### {name}\n\n{_schema(document, schema)}")
    return "".join(parts)


def _operation(document: Document, method: str, path: str, operation: Document) -> str:
    scopes = operation["security"][0][KEY] if "security" in operation else None
    needed = "Needs no key." if scopes is None else f"Scope: `{scopes[0]}`." if scopes else "Any key."
    text = f"\n### {method} {path}\n\n{operation['summary']}. {needed}\n"
    rows = [
        [
            code(item["name"]),
            item["in"],
            type_text(document, item["schema"]),
            prose(item.get("description", "")),
        ]
        for item in operation["parameters"]
    ]
    if rows:
        text += "\n" + table(["parameter", "in", "type", "what"], rows)
    content = operation.get("requestBody", {}).get("content", {})
    rows = [["body", *_content(document, content)]] if content else []
    rows += [
        [code(status), *_content(document, answer.get("content", {}))]
        for status, answer in operation["responses"].items()
    ]
    return text + "\n" + table(["", "media type", "schema"], rows)


def _content(document: Document, content: Document) -> list[str]:
    """Media types, and the names of their schemas as links."""
    names = dict.fromkeys(_linked(document, item["schema"]) for item in content.values() if "schema" in item)
    return [", ".join(map(code, content)), ", ".join(names)]


def _linked(document: Document, schema: Document) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    return f"[{name}](#{name.lower()})" if name else type_text(document, schema)


def _schema(document: Document, schema: Document) -> str:
    text = f"{schema['description']}\n\n" if schema.get("description") else ""
    if "properties" not in schema:
        choices = ", ".join(_linked(document, choice) for choice in schema.get("oneOf", []))
        return f"{text}{choices or type_text(document, schema)}\n"
    required = schema.get("required", ())
    rows = []
    for name, item in schema["properties"].items():
        default = item.get("default")
        state = "required" if name in required else "" if default is None else code(json.dumps(default))
        rows.append([code(name), type_text(document, item), state, prose(item.get("description", ""))])
    return text + table(["field", "type", "default", "what"], rows)


def commands_page() -> str:
    """Every command with its arguments and options, as Typer writes them."""
    command = typer.main.get_command(lmaas.app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="lmaas")
    return text.replace("# `lmaas`", "# Commands", 1)


def metrics_page() -> str:
    """What `/metrics` of the façade and of Triton have."""
    engine = [
        [code(name), kind, "`model`, `version`" + more, f"{text}."]
        for name, kind, text, more in _engine_metrics()
    ]
    head = ["metric", "type", "labels", "what"]
    return (
        "# Metrics\n\n## Of the façade\n\n"
        + table(head, asyncio.run(_facade_metrics()))
        + "\n## Of the engines\n\nTriton's `/metrics` has them. That of the façade repeats them with "
        + "a label `server`.\n\n"
        + table(head, engine)
    )


async def _facade_metrics() -> list[list[str]]:
    """Of a cluster without servers. Its manager needs a running loop, and a store only once it is opened."""
    metrics = Metrics()
    cluster = ClusterManager(Settings().back, (), cast(Any, None), cast(Any, None))
    labels = {
        metric._name: metric._labelnames for metric in vars(metrics).values() if hasattr(metric, "_name")
    }
    for metric in metrics.request_seconds_of.values():
        labels[metric._name] = metric._labelnames
    found = [*metrics.registry.collect(), *ClusterCollector(cluster).collect()]
    return [
        [
            code(each.name + ("_total" if each.type == "counter" else "")),
            each.type,
            ", ".join(map(code, labels.get(each.name, getattr(each, "_labelnames", ())))),
            each.documentation,
        ]
        for each in found
    ]


def _engine_metrics() -> Iterator[tuple[str, str, str, str]]:
    """Name, type, description and further labels."""
    # The module that Triton gives to a backend, which nvidia-pytriton has as a file.
    sys.path.append(
        str(Path(sysconfig.get_path("platlib")) / "pytriton" / "tritonserver" / "backends" / "python")
    )
    from runtime.triton.metrics import COUNTERS, FALLBACK, FINISHED, GAUGES, HEAD_RUNS

    for name, (_, text) in GAUGES.items():
        yield name, "gauge", text, ""
    for name, (_, text) in COUNTERS.items():
        yield name, "counter", text, ""
    yield (*FINISHED[:1], "counter", FINISHED[1], ", `reason`")
    yield FALLBACK[0], "gauge", FALLBACK[1], ", `reason`"
    yield (*HEAD_RUNS[:1], "counter", HEAD_RUNS[1], "")


def manifest_page() -> str:
    """The records of `manifest.json`, each field with its type and the comment beside it."""
    parts = [
        f"# Manifest\n\n`{manifest.MANIFEST_FILE}` of an artifact says what it is. Its `schema_version` is "
        f"{manifest.MANIFEST_SCHEMA_VERSION}. A field without a default is required. "
        "An unknown field is refused.\n"
    ]
    records = (manifest.Manifest, manifest.Architecture, manifest.VariantEntry, manifest.FileEntry)
    for record in (*records, manifest.GoldenPrompt, manifest.GoldenAnswer):
        parts.append(f"\n## {record.__name__}\n\n")
        if record.__doc__ and not record.__doc__.startswith(f"{record.__name__}("):
            parts.append(f"{record.__doc__}\n\n")
        parts.append(table(["field", "type", "default", "what"], list(_fields(record))))
    return "".join(parts)


def _fields(record: type[Any]) -> Iterator[list[str]]:
    comments = {
        line.partition(":")[0].strip(): line.partition("  # ")[2]
        for line in inspect.getsource(record).splitlines()
    }
    hints = typing.get_type_hints(record)
    for item in dataclasses.fields(record):
        shown = "" if item.default is dataclasses.MISSING else repr(item.default)
        if item.default_factory is not dataclasses.MISSING:
            shown = repr(item.default_factory())
        hint = hints[item.name]
        name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
        name = name.replace("runtime.manifest.", "").replace("runtime.contract.", "").replace(" | ", " or ")
        yield [code(item.name), code(name), code(shown) if shown else "", comments[item.name]]


PAGES: dict[str, Callable[[], str]] = {
    "api": api_page,
    "cli": commands_page,
    "metrics": metrics_page,
    "manifest": manifest_page,
}
