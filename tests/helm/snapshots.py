"""What the value sets render to, as files for a reviewer: default whole, the others as what they change.

`python -m tests.helm.snapshots` writes them.
"""

from __future__ import annotations

import difflib
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.helm.charts import HERE, NAMES, Manifest, label, render, rendered, values

FOLDER = HERE / "snapshots"
LONGEST = 2000  # characters of a text that is shown; of a longer one its digest


def snapshot(name: str) -> str:
    if name == "default":
        return _text(name)
    lines = difflib.unified_diff(
        _text("default").splitlines(), _text(name).splitlines(), "default", name, n=1, lineterm=""
    )
    return "\n".join(lines) + "\n"


def file_of(name: str) -> Path:
    return FOLDER / (f"{name}.yaml" if name == "default" else f"{name}.diff")


@cache
def _text(name: str) -> str:
    shown = [_shown(item) for item in sorted(rendered(name), key=label)]
    return yaml.safe_dump_all(shown, sort_keys=True, width=110) + "\n" + _notes(name)


def _notes(name: str) -> str:
    (notes,) = (text for path, text in render(values(name)).items() if path.endswith("NOTES.txt"))
    return "".join(f"# {line}".rstrip() + "\n" for line in notes.splitlines())


def _shown(item: Manifest) -> Any:
    """Without what differs from rendering to rendering, and without what other tests compare."""
    if item["kind"] == "Secret":
        return {**item, "data": dict.fromkeys(item["data"], "random")}
    if item["kind"] == "PrometheusRule":
        return {**item, "spec": "monitoring/alerts.yaml"}
    return _short(item)


def _short(item: Any) -> Any:
    if isinstance(item, dict):
        return {
            key: "a digest" if key == "checksum/settings" else _short(value) for key, value in item.items()
        }
    if isinstance(item, list):
        return [_short(value) for value in item]
    if isinstance(item, str) and len(item) > LONGEST:
        return f"sha256:{hashlib.sha256(item.encode()).hexdigest()}"
    return item


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in NAMES:
        file_of(each).write_text(snapshot(each))
