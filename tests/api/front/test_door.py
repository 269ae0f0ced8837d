"""The front reaches the back layer through the middle only, by imports and by attributes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import front

# Values that pass through the middle unchanged, and the translation of a disk that is full.
ALLOWED_IMPORTS = {
    "api.back.cluster.records",
    "api.back.store.archives",
    "api.back.store.failures",
    "api.back.store.records",
}
BACK_ATTRIBUTES = {"backend", "cluster", "converter", "database", "queue", "store"}
FILES = sorted(Path(front.__file__ or "").parent.rglob("*.py"))


def reached(tree: ast.AST) -> Iterator[str]:
    """What of the back layer a module names, private attributes of the middle's objects among it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("api.back"):
            if node.module not in ALLOWED_IMPORTS:
                yield f"{node.lineno}: from {node.module}"
        elif isinstance(node, ast.Import):
            yield from (f"{node.lineno}: {item.name}" for item in node.names if "api.back" in item.name)
        elif isinstance(node, ast.Attribute):
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            private = node.attr.startswith("_") and not node.attr.startswith("__") and not of_self
            if node.attr in BACK_ATTRIBUTES or private:
                yield f"{node.lineno}: .{node.attr}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_front_has_one_door(path: Path) -> None:
    assert list(reached(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "line",
    [
        "service(request).backend.cluster.servers()",
        "await tasks.store.get('t')",
        "service(request)._cluster",
        "from api.back.cluster.manager import ClusterManager",
        "import api.back.backend",
    ],
)
def test_a_side_door_is_found(line: str) -> None:
    assert list(reached(ast.parse(f"async def f():\n    {line}")))
