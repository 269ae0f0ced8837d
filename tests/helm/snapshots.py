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
    texts = _texts(name)
    if name == "default":
        return "\n".join(f"=== {title}\n{text}" for title, text in sorted(texts.items()))
    default = _texts("default")
    parts = []
    for title in sorted({*texts, *default}):
        if title not in texts:
            parts.append(f"=== {title}\nis not there\n")
        elif texts[title] != default.get(title):
            parts.append(f"=== {title}\n{_difference(default.get(title, ''), texts[title])}")
    return "".join(parts)


def _difference(before: str, now: str) -> str:
    """Without the numbers of lines, which change with what stands above."""
    lines = list(difflib.unified_diff(before.splitlines(), now.splitlines(), n=2, lineterm=""))[2:]
    return "".join("@@\n" if line.startswith("@@") else f"{line}\n" for line in lines)


def file_of(name: str) -> Path:
    return FOLDER / (f"{name}.txt" if name == "default" else f"{name}.diff")


@cache
def _texts(name: str) -> dict[str, str]:
    """Each manifest, and the notes, as text."""
    found = {label(item): yaml.safe_dump(_shown(item), width=110) for item in rendered(name)}
    (notes,) = (text for path, text in render(values(name)).items() if path.endswith("NOTES.txt"))
    return {**found, "notes": notes}


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
