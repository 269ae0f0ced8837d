"""Values that cannot work are refused, with what to do; the schema and the README follow from values.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
import yaml

from helm.documents import Value, documents
from helm.documents import values as described
from tests.helm.charts import CHART, chart, quiet, render, values

NO_METRICS = {f"lmaas_engine_{name}": 0 for name in ("kv_cache_usage_ratio", "running", "waiting")}
VALUES = list(described((CHART / "values.yaml").read_text()))


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("name", ["default", "minimal", "models", "everything"])
def test_lint_finds_nothing(name: str) -> None:
    with quiet():
        report = helm_python.lint(CHART, values(name), strict=True, namespace="serving")
    assert report["errors"] == []
    assert [item for item in report["messages"] if item["severity"] > 1] == []


def test_documents_are_current() -> None:
    for path, text in documents().items():
        assert path.read_text() == text, "run: python -m helm.documents"


def test_every_value_has_a_description() -> None:
    def leaves(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for name, value in tree.items():
            here = (*path, name)
            if here in known or not isinstance(value, dict):
                yield here
            else:
                yield from leaves(value, here)

    known = {value.path for value in VALUES}
    assert set(leaves(yaml.safe_load((CHART / "values.yaml").read_text()))) == known
    assert all(value.description.endswith(".") for value in VALUES)
    with pytest.raises(ValueError, match=r"values\.yaml:1: a has no description"):
        list(described("a: 1\n"))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ".".join(value.path))
def test_the_schema_refuses_wrong_types(value: Value) -> None:
    wrong = 7 if isinstance(value.default, str) else "text"
    with pytest.raises(helm_python.HelmError, match=value.path[-1]):
        chart().validate_schema(nested(value.path, wrong))


@pytest.mark.parametrize(
    "path", sorted({value.path[:length] for value in VALUES for length in range(len(value.path))})
)
def test_the_schema_refuses_unknown_values(path: tuple[str, ...]) -> None:
    with pytest.raises(helm_python.HelmError, match="unheardOf"):
        chart().validate_schema(nested((*path, "unheardOf"), "1"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"api": {"settings": {"maxInFlght": 1}}},
        {"api": {"settings": {"maxInFlight": 0}}},
        {"api": {"settings": {"servers": 2}}},
        {"api": {"settings": {"callbackSecret": "whsec_a"}}},
        {"api": {"settings": {"logFormat": "xml"}}},
        {"api": {"extraEnv": {"LMAAS_PORT": "1"}}},
        {"api": {"secretEnv": {"A": {"name": "a"}}}},
        {"api": {"secretEnv": {"LMAAS_CALLBAK_SECRET": {"name": "a", "key": "a"}}}},
        {"api": {"secretEnv": {"LMAAS_DATABASE_URL": {"name": "a", "key": "a"}}}},
        {"api": {"allowedHosts": {"*.example": True}}},
        {"ingress": {"hosts": {"*.example": "tls"}}},
        {"gateway": {"hosts": {"https://words.example": True}}},
        {"commonLabels": {"app.kubernetes.io/name": "words"}},
        {"triton": {"podLabels": {"helm.sh/chart": "words"}}},
        {"api": {"replicas": 0}},
        {"api": {"image": {"digest": "sha256:1"}}},
        {"triton": {"device": "rocm"}},
        {"triton": {"resources": {"limits": {"cpu": "1"}}, "tolerations": {"gpu": {"operator": "Is"}}}},
        {"triton": {"resources": {"limits": {"cpu": "a lot", "memory": "1Gi"}}}},
        {"triton": {"probes": {"liveness": {"periods": 1}}}},
        {"models": {"deploy": {"a": {"precision": "int3"}}}},
        {"models": {"deploy": {"a": {"source": {"path": "a"}}}}},
        {"monitoring": {"podMonitor": {"interval": "often"}}},
        {"database": {"type": "mysql"}},
    ],
    ids=str,
)
def test_the_schema_refuses_what_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError):
        chart().validate_schema(wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"database": {"type": "external"}}, "database.existingSecret: "),
        ({"database": {"type": "sqlite"}}, "api.replicas: "),
        (
            {"database": {"type": "sqlite"}, "api": {"replicas": 1, "autoscaling": {"enabled": True}}},
            "api.replicas: ",
        ),
        ({"blobs": {"type": "s3"}}, "blobs.s3.bucket: "),
        (
            {"triton": {"autoscaling": {"enabled": True}, "keda": {"enabled": True}}},
            "triton.autoscaling and triton.keda: ",
        ),
        (
            {"triton": {"autoscaling": {"enabled": True}, "discovery": "static"}},
            "triton.discovery: static",
        ),
        ({"triton": {"autoscaling": {"enabled": True}}}, "monitoring.podMonitor.enabled: "),
        (
            {
                "triton": {"autoscaling": {"enabled": True, "metrics": NO_METRICS}},
                "monitoring": {"podMonitor": {"enabled": True}},
            },
            "triton.autoscaling.metrics: ",
        ),
        ({"triton": {"keda": {"enabled": True}}}, "triton.keda.serverAddress: "),
        (
            {"triton": {"keda": {"enabled": True, "serverAddress": "http://p"}}},
            "monitoring.serviceMonitor.enabled: ",
        ),
        ({"api": {"autoscaling": {"enabled": True, "minReplicas": 9}}}, "api.autoscaling: minReplicas"),
        ({"api": {"terminationGracePeriodSeconds": 16}}, "api.terminationGracePeriodSeconds: "),
        (
            {"api": {"terminationGracePeriodSeconds": 40, "settings": {"drainSeconds": 30}}},
            "api.terminationGracePeriodSeconds: ",
        ),
        ({"triton": {"terminationGracePeriodSeconds": 50}}, "triton.terminationGracePeriodSeconds: "),
        ({"api": {"affinity": {"podAffinity": {"a": []}}}}, "api.affinity.podAffinity: "),
        ({"triton": {"affinity": {"podAffinity": {"a": []}}}}, "triton.affinity.podAffinity: "),
        ({"ingress": {"enabled": True}}, "ingress.hosts: "),
        ({"gateway": {"enabled": True}}, "gateway.parents: "),
        ({"triton": {"device": "cuda"}, "api": {"settings": {"variants": "int8"}}}, "api.settings.variants"),
        ({"gateway": {"enabled": True, "parents": {"public": ""}}}, "gateway.hosts: "),
        ({"models": {"deploy": {"a": {"precision": "int8"}}}, "triton": {"device": "cuda"}},
         "models.deploy.a.precision: "),
        ({"models": {"deploy": {"a": {"replicas": 3, "maxReplicas": 2}}}}, "models.deploy.a: "),
    ],
    ids=str,
)  # fmt: skip
def test_illegal_combinations_are_stopped(wrong: dict[str, Any], message: str) -> None:
    chart().validate_schema(wrong)
    with pytest.raises(helm_python.HelmRenderError, match=message):
        render(wrong)
