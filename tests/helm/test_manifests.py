"""What the value sets render to: valid for Kubernetes, as it was reviewed, and consistent in itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from tests.api.back.cluster.kubernetes.double import rules_of_role
from tests.helm.charts import (
    CHART,
    NAMES,
    NAMESPACE,
    RELEASE,
    ROOT,
    Manifest,
    containers,
    label,
    merged,
    of_kind,
    parse,
    pod_labels,
    pod_spec,
    quiet,
    render,
    rendered,
    values,
    workloads,
)
from tests.helm.kubernetes_schemas import VERSIONS, faults
from tests.helm.snapshots import file_of, snapshot

LISTED = {"Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "PodMonitor"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES)
def test_kubernetes_takes_each_manifest(name: str, version: str) -> None:
    found = {label(item): fault for item in rendered(name) if (fault := faults(item, version))}
    assert found == {}


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "replicas"), "two"),
        ("StatefulSet", ("spec", "template", "spec", "contaners"), []),
        ("PodMonitor", ("spec", "selektor"), {}),
        ("ScaledObject", ("spec", "triggers"), []),
        ("HTTPRoute", ("spec", "rules", 0, "timeouts", "request"), "never"),
    ],
)
def test_a_wrong_manifest_is_found(kind: str, path: tuple[str | int, ...], value: Any) -> None:
    wrong = json.loads(json.dumps(next(item for item in rendered("everything") if item["kind"] == kind)))
    place = wrong
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert faults(wrong, VERSIONS[0]) != []


@pytest.mark.parametrize("name", NAMES)
def test_it_is_as_it_was_reviewed(name: str) -> None:
    assert snapshot(name) == file_of(name).read_text(), "see it, then: python -m tests.helm.snapshots"


@pytest.mark.parametrize("name", NAMES)
def test_names_are_unique_and_short(name: str) -> None:
    labels = [label(item) for item in rendered(name)]
    assert len(labels) == len(set(labels))
    assert all(item["metadata"]["namespace"] == NAMESPACE for item in rendered(name))
    long = {**values(name), "fullnameOverride": "a-name-of-fifty-characters-which-kubernetes-will-take"}
    assert all(len(item["metadata"]["name"]) <= 63 for item in parse(render(long, name="r" * 53)))


def test_names_that_yaml_would_read_as_numbers_stay_text() -> None:
    given = {**values("everything"), "nameOverride": "8", "fullnameOverride": "words"}
    for item in parse(render(given, name="7", namespace="2026")):
        assert faults(item, VERSIONS[0]) == [], label(item)


def selectors(item: Manifest) -> list[dict[str, str]]:
    spec = item["spec"]
    found = spec.get("podSelector") or spec["selector"]
    return [found.get("matchLabels", found)]


@pytest.mark.parametrize("name", NAMES)
def test_selectors_find_the_pods_of_one_workload(name: str) -> None:
    for item in workloads(name):
        if item["kind"] in ("Deployment", "StatefulSet"):
            assert item["spec"]["selector"]["matchLabels"].items() <= pod_labels(item).items()
    pods = {label(item): pod_labels(item) for item in workloads(name)}
    services = [item["metadata"]["labels"] for item in of_kind(name, "Service")]
    for item in rendered(name):
        if item["kind"] in LISTED:
            (selector,) = selectors(item)
            targets = services if item["kind"] == "ServiceMonitor" else list(pods.values())
            assert sum(selector.items() <= labels.items() for labels in targets) == 1, label(item)
    for item in of_kind(name, "HorizontalPodAutoscaler", "ScaledObject"):
        target = item["spec"]["scaleTargetRef"]
        (scaled,) = (each for each in workloads(name) if label(each) == f"{target['kind']}/{target['name']}")
        assert "replicas" not in scaled["spec"]


def test_an_upgrade_changes_no_selector(tmp_path: Path) -> None:
    """Kubernetes refuses that, and what selects pods would lose those that run."""
    with quiet():
        shutil.copytree(CHART, tmp_path / "chart")
        file = tmp_path / "chart" / "Chart.yaml"
        later = yaml.safe_load(file.read_text()) | {"version": "9.9.9", "appVersion": "9.9.9"}
        file.write_text(yaml.safe_dump(later))
        new = parse(helm_python.Chart.load(tmp_path / "chart").render({}, name=RELEASE, namespace=NAMESPACE))
    before = {label(item): item for item in rendered("default")}
    for item in new:
        old = before[label(item)]
        if item["kind"] in LISTED | {"Deployment", "StatefulSet"}:
            assert selectors(item) == selectors(old)
        if item["kind"] in ("Deployment", "StatefulSet"):
            fixed = ("serviceName", "volumeClaimTemplates", "podManagementPolicy")
            assert [item["spec"].get(key) for key in fixed] == [old["spec"].get(key) for key in fixed]
    (api,) = (item for item in new if label(item) == "Deployment/lmaas-api")
    assert pod_spec(api)["containers"][0]["image"] == "lmaas-api:9.9.9"


def named(name: str) -> set[tuple[str, str]]:
    """Kind and name of what the release has, and of what its values say is there."""
    found = {(item["kind"], item["metadata"]["name"]) for item in rendered(name)}
    settings = merged(name)
    secrets = [
        settings["secret"]["existingSecret"],
        settings["database"]["existingSecret"],
        settings["blobs"]["s3"]["existingSecret"],
        settings["api"]["tls"]["existingSecret"],
        *(item["name"] for item in settings["api"]["secretEnv"].values()),
    ]
    claims = [settings["storage"]["existingClaim"]]
    claims += [item["source"]["claim"] for item in settings["models"]["deploy"].values() if "source" in item]
    found |= {("Secret", secret) for secret in secrets} | {
        ("PersistentVolumeClaim", claim) for claim in claims
    }
    return found | {("ServiceAccount", "default")}


def references(item: Any) -> list[tuple[str, str]]:
    """What a pod needs: it waits without an end for what is not there."""
    kinds = {
        "secretKeyRef": ("Secret", "name"),
        "secret": ("Secret", "secretName"),
        "configMapRef": ("ConfigMap", "name"),
        "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
    }
    found = []
    if isinstance(item, dict):
        for key, value in item.items():
            if key in kinds and isinstance(value, dict):
                kind, field = kinds[key]
                found.append((kind, value[field]))
            elif key == "serviceAccountName":
                found.append(("ServiceAccount", value))
            found += references(value)
    elif isinstance(item, list):
        found += [each for value in item for each in references(value)]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_a_pod_refers_to_is_there(name: str) -> None:
    for item in workloads(name):
        missing = set(references(pod_spec(item))) - named(name)
        assert missing == set(), label(item)
        spec = pod_spec(item)
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        claims = item["spec"].get("volumeClaimTemplates", [])
        volumes |= {claim["metadata"]["name"] for claim in claims}
        mounted = [mount["name"] for container in containers(item) for mount in container["volumeMounts"]]
        assert set(mounted) == volumes, label(item)


@pytest.mark.parametrize("name", NAMES)
def test_what_hooks_need_is_there_in_time(name: str) -> None:
    """A hook before an installation finds nothing of the release yet."""
    own = {(item["kind"], item["metadata"]["name"]) for item in rendered(name)}
    for item in of_kind(name, "Job", "Pod"):
        if "pre-install" in item["metadata"]["annotations"]["helm.sh/hook"]:
            assert not own & set(references(pod_spec(item)))


def test_only_the_facade_reaches_triton() -> None:
    for name in NAMES:
        if not merged(name)["networkPolicy"]["enabled"]:
            continue
        (policy,) = (
            item for item in of_kind(name, "NetworkPolicy") if item["metadata"]["name"].endswith("-triton")
        )
        facade, *others = policy["spec"]["ingress"]
        (peer,) = facade["from"]
        reaching = [item for item in workloads(name) if _matches(peer["podSelector"], item)]
        assert [item["kind"] for item in reaching] == ["Deployment"]
        assert {port["port"] for port in facade["ports"]} == {"grpc", "metrics"}
        assert all({port["port"] for port in other["ports"]} == {"metrics"} for other in others)
        assert policy["spec"]["egress"] == []
        assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}


def test_prometheus_reaches_facades_that_are_not_for_all() -> None:
    given = {"networkPolicy": {"apiFrom": {"ingress-nginx": True}, "metricsFrom": {"observability": True}}}
    for enabled in (False, True):
        texts = render({**given, "monitoring": {"serviceMonitor": {"enabled": enabled}}})
        (policy,) = (item for item in parse(texts) if label(item) == "NetworkPolicy/lmaas-api")
        ((term,),) = (
            peer["namespaceSelector"]["matchExpressions"]
            for peer in policy["spec"]["ingress"][0]["from"]
            if "namespaceSelector" in peer
        )
        assert term["values"] == ["ingress-nginx", *(["monitoring", "observability"] if enabled else [])]


def _matches(selector: dict[str, Any], workload: Manifest) -> bool:
    matching: bool = selector["matchLabels"].items() <= pod_labels(workload).items()
    return matching


def test_rights_are_those_of_the_driver() -> None:
    for name in NAMES:
        uses_them = merged(name)["triton"]["discovery"] == "kubernetes"
        roles = of_kind(name, "Role")
        assert bool(roles) == uses_them
        assert not of_kind(name, "ClusterRole", "ClusterRoleBinding")
        for role in roles:
            # Its tests allow the driver these alone.
            assert role["rules"] == rules_of_role(_pods_of_triton(name))
        for item in workloads(name):
            facade = item["kind"] == "Deployment"
            assert pod_spec(item)["automountServiceAccountToken"] == (facade and uses_them)


def _pods_of_triton(name: str) -> list[str]:
    """All that there may be."""
    triton = merged(name)["triton"]
    scalers = (triton["autoscaling"], triton["keda"])
    most = next((scaler["maxReplicas"] for scaler in scalers if scaler["enabled"]), triton["replicas"])
    (maker,) = (item for item in of_kind(name, "StatefulSet") if "triton" in item["metadata"]["name"])
    return [f"{maker['metadata']['name']}-{number}" for number in range(most)]


def test_alerts_and_dashboard_are_those_of_the_repository(tmp_path: Path) -> None:
    (rule,) = of_kind("everything", "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((ROOT / "monitoring" / "alerts.yaml").read_text())
    (dashboard,) = (item for item in of_kind("everything", "ConfigMap") if "lmaas.json" in item["data"])
    assert dashboard["data"]["lmaas.json"] == (ROOT / "monitoring" / "dashboard.json").read_text()
    with quiet():
        packed = helm_python.package(CHART, destination=tmp_path)
        loaded = helm_python.Chart.load(packed)
    files = {file["name"]: file["data"] for file in loaded.files}
    assert files["files/alerts.yaml"] == (ROOT / "monitoring" / "alerts.yaml").read_text()
    assert files.keys() == {".helmignore", "README.md", "files/alerts.yaml", "files/dashboard.json"}
    assert loaded.render({}, name=RELEASE, namespace=NAMESPACE).keys() == _templates()


def _templates() -> set[str]:
    return {
        f"lmaas/{path.relative_to(CHART)}"
        for path in (CHART / "templates").rglob("*")
        if path.is_file() and not path.name.startswith("_")
    }
