"""The reference page: the OpenAPI document as HTML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from api.front.openapi import KEY
from api.front.problems import PROBLEMS

Document = Mapping[str, Any]


def reference_html(page: str, document: Document) -> str:
    """`page` with its marks replaced by what the document says."""
    operations = list(_operations(document))
    return (
        page.replace("<!--version-->", escape(document["info"]["version"]))
        .replace("<!--description-->", escape(document["info"]["description"]))
        .replace("<!--contents-->", _contents(operations))
        .replace("<!--operations-->", "".join(_section(document, *item) for item in operations))
        .replace("<!--problems-->", _problems())
    )


def _operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Method, path and operation, the tags in the order of their first use."""
    found = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    tags = list(dict.fromkeys(operation["tags"][0] for _, _, operation in found))
    yield from sorted(found, key=lambda item: tags.index(item[2]["tags"][0]))


def _contents(operations: list[tuple[str, str, Document]]) -> str:
    lines = []
    tag = None
    for method, path, operation in operations:
        if operation["tags"][0] != tag:
            tag = operation["tags"][0]
            lines.append(f"<h2>{escape(tag)}</h2>")
        lines.append(
            f'<a href="#{operation["operationId"]}">{_method(method)} <code>{escape(path)}</code></a>'
        )
    return "".join(lines)


def _section(document: Document, method: str, path: str, operation: Document) -> str:
    parts = [
        f'<section id="{operation["operationId"]}">',
        f"<h3>{_method(method)} <code>{escape(path)}</code></h3><p>{escape(operation['summary'])}</p>",
        _scope(operation),
        _parameter_table(document, operation),
    ]
    body = operation.get("requestBody", {}).get("content", {})
    for media_type, content in body.items():
        if "schema" in content:
            parts.append(_model_table(document, f"Body · {media_type}", content["schema"]))
        else:
            parts.append(f"<h4>Body · {media_type}</h4>")
    for status, response in operation["responses"].items():
        if status.isdigit():
            parts.append(_response(document, status, response))
    parts.append(_try_it(document, method, path, body))
    return "".join([*parts, "</section>"])


def _scope(operation: Document) -> str:
    """What the caller's key must allow, where keys are in use."""
    if "security" not in operation:
        return '<p class="soft">Needs no key.</p>'
    scopes = operation["security"][0][KEY]
    return f'<p class="soft">Scope: {escape(scopes[0])}.</p>' if scopes else '<p class="soft">Any key.</p>'


def _method(method: str) -> str:
    return f'<span class="method {method.lower()}">{method}</span>'


def _parameter_table(document: Document, operation: Document) -> str:
    rows = [
        _row(
            document, item["name"], {**item["schema"], "description": item.get("description", "")}, item["in"]
        )
        for item in operation["parameters"]
    ]
    return _table("Parameters", rows)


def _model_table(document: Document, title: str, schema: Document) -> str:
    """Fields of a model; of a choice between task types, the parameters of each."""
    resolved = _resolve(document, schema)
    if "oneOf" in resolved:
        choices = [_resolve(document, choice)["properties"] for choice in resolved["oneOf"]]
        rows = [_row(document, choice["type"]["const"], choice["parameters"], "") for choice in choices]
        return _table(f"{title} · type, and the schema of its parameters", rows)
    required = resolved.get("required", ())
    rows = [
        _row(document, name, item, "required" if name in required and "default" not in item else "")
        for name, item in resolved.get("properties", {}).items()
    ]
    return _table(title, rows)


def _response(document: Document, status: str, response: Document) -> str:
    described = f'<p class="status"><b>{status}</b> {escape(response["description"])}'
    schemas = {
        media_type: _payload(content["schema"])
        for media_type, content in response.get("content", {}).items()
        if "schema" in content
    }
    if not schemas:
        kinds = ", ".join(response.get("content", {}))
        return described + (f" · {escape(kinds)}" if kinds else "") + "</p>"
    media_types = " or ".join(schemas)
    table = _model_table(
        document, f"{_name(next(iter(schemas.values())))} · {media_types}", next(iter(schemas.values()))
    )
    return f"{described}</p><details><summary>Fields</summary>{table}</details>"


def _payload(schema: Document) -> Document:
    """Of an event, what its data is; any other schema as it is."""
    payload: Document = schema.get("properties", {}).get("data", {}).get("contentSchema", schema)
    return payload


def _table(title: str, rows: list[str]) -> str:
    if not rows:
        return ""
    return f'<h4>{escape(title)}</h4><div class="scroll"><table>{"".join(rows)}</table></div>'


def _row(document: Document, name: str, schema: Document, mark: str) -> str:
    text = escape(schema.get("description") or _resolve(document, schema).get("description") or "")
    default = schema.get("default")
    if default not in (None, ""):
        text += f' <span class="default">default {escape(json.dumps(default))}</span>'
    return (
        f"<tr><td><code>{escape(name)}</code>{f'<i>{escape(mark)}</i>' if mark else ''}</td>"
        f"<td>{escape(type_text(document, schema))}</td><td>{text}</td></tr>"
    )


def type_text(document: Document, schema: Document) -> str:
    """A schema in a few words: `integer, 0 to 20, or null`."""
    for union in ("anyOf", "oneOf"):
        if union in schema:
            texts = [type_text(document, choice) for choice in schema[union]]
            return " or ".join(dict.fromkeys(texts))
    if "$ref" in schema:
        resolved = _resolve(document, schema)
        return type_text(document, resolved) if "enum" in resolved else _name(schema)
    if "enum" in schema or "const" in schema:
        return ", ".join(str(item) for item in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {type_text(document, schema.get('items', {}))}"
    return f"{schema.get('type', 'any')}{_limits(schema)}"


def _limits(schema: Document) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None and high is not None:
        return f", {'above ' if 'exclusiveMinimum' in schema else ''}{low} to {high}"
    return f", at least {low}" if low is not None else ""


def _resolve(document: Document, schema: Document) -> Document:
    if "$ref" not in schema:
        return schema
    found: Document = document["components"]["schemas"][_name(schema)]
    return found


def _name(schema: Document) -> str:
    return str(schema.get("$ref", "")).rsplit("/", 1)[-1]


EXAMPLES: dict[str, Any] = {
    "/v1/generate": {"prompt": "Once upon a time", "max_tokens": 32},
    "/v1/classify": {"input": "A film full of warmth and wit."},
    "/v1/infer": {"premise": "A man is playing a guitar.", "hypothesis": "A man is making music."},
    "/v1/nlu": {"input": "play some jazz on the radio"},
    "/v1/next": {"prompt": "Once upon a", "top_k": 5},
    "/v1/score": {"prompt": "The sky is", "continuations": [" blue", " green"]},
    "/v1/completions": {"prompt": "Once upon a time", "max_tokens": 32},
    "/v1/embeddings": {"input": "Once upon a time"},
    "/v1/deployments": {"model": "mini-lm", "version": "latest", "precision": "auto"},
    "/v1/tasks": {"type": "generate", "parameters": {"prompt": "Once upon a time"}},
    "/v1/models/{name}": {"description": "What it is for", "aliases": {"stable": 1}},
    "/v1/deployments/{id}": {"traffic_weight": 50},
}


def _try_it(document: Document, method: str, path: str, body: Document) -> str:
    """A form that the page's script sends; none for uploads, which curl does better, and for pages."""
    if "multipart/form-data" in body:
        command = (
            f"curl -F name=my-model -F file=@checkpoint.tar.gz -F deploy=true http://127.0.0.1:8080{path}"
        )
        return f"<h4>Example</h4><pre>{escape(command)}</pre>"
    if path in ("/", "/docs") or path.endswith("/archive"):
        return ""
    shown = path + (
        "?prompt=Once+upon+a+time&max_tokens=16" if (method, path) == ("GET", "/v1/generate") else ""
    )
    field = ""
    if body:
        example = json.dumps(EXAMPLES.get(path, {}), indent=2, ensure_ascii=False)
        rows = example.count("\n") + 1
        field = f'<textarea aria-label="Body" spellcheck="false" rows="{rows}">{escape(example)}</textarea>'
    return (
        f'<details class="try"><summary>Try it</summary><form data-method="{method}">'
        f'<input aria-label="Path" value="{escape(shown)}" spellcheck="false">{field}'
        "<button>Send</button><pre hidden tabindex=0></pre></form></details>"
    )


def _problems() -> str:
    rows = [
        f'<tr id="{slug}"><td><code>{slug}</code></td><td>{kind.status} {kind.title}</td>'
        f"<td>{escape(kind.meaning)}</td></tr>"
        for slug, kind in PROBLEMS.items()
    ]
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'
