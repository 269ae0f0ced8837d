"""The chart as the tests see it: value sets, and what each of them renders to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in (HERE / "values").glob("*.yaml"))
RELEASE, NAMESPACE = "lmaas", "serving"

Manifest = dict[str, Any]


@contextmanager
def quiet() -> Iterator[None]:
    """Helm writes a line to the process's standard error for each symbolic link that it follows."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@cache
def chart() -> helm_python.Chart:
    with quiet():
        return helm_python.Chart.load(CHART)


@cache
def values(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((HERE / "values" / f"{name}.yaml").read_text())
    return found


def merged(name: str) -> dict[str, Any]:
    """With the chart's defaults."""
    return chart().merge_values(values(name))


def render(overrides: dict[str, Any], **options: Any) -> dict[str, str]:
    """Text by template. Raises helm_python.HelmError."""
    return chart().render(overrides, **{"name": RELEASE, "namespace": NAMESPACE, **options})


def parse(texts: dict[str, str]) -> list[Manifest]:
    """The manifests of all templates, in the order of their files."""
    found = []
    for path, text in sorted(texts.items()):
        if path.endswith(".yaml"):
            found += [item for item in yaml.load_all(text, UniqueKeys) if item]
    return found


@cache
def rendered(name: str) -> tuple[Manifest, ...]:
    return tuple(parse(render(values(name))))


def of_kind(name: str, *kinds: str) -> list[Manifest]:
    return [item for item in rendered(name) if item["kind"] in kinds]


def workloads(name: str) -> list[Manifest]:
    return of_kind(name, "Deployment", "StatefulSet", "Job", "Pod")


def pod_spec(workload: Manifest) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]
    return spec if workload["kind"] == "Pod" else spec["template"]["spec"]


def pod_labels(workload: Manifest) -> dict[str, str]:
    holder = workload if workload["kind"] == "Pod" else workload["spec"]["template"]
    labels: dict[str, str] = holder["metadata"]["labels"]
    return labels


def containers(workload: Manifest) -> list[dict[str, Any]]:
    spec = pod_spec(workload)
    return [*spec.get("initContainers", []), *spec["containers"]]


def label(workload: Manifest) -> str:
    return f"{workload['kind']}/{workload['metadata']['name']}"


class UniqueKeys(yaml.CSafeLoader):
    """YAML without two values for one key, which Kubernetes would read in silence."""


def _mapping(loader: UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"twice: {', '.join(twice)}", node.start_mark)
    return loader.construct_mapping(node, deep=True)


UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
