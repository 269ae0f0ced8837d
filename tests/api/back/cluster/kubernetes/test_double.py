"""Kubernetes' own command line as a second client of the double, which shows that it speaks Kubernetes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kubernetes_validate import ValidationError

from tests.api.back.cluster.kubernetes.double import ADMIN, FACADE, RULES, KubernetesDouble
from tests.api.back.cluster.kubernetes.objects import NAMESPACE, SELECTOR, endpoint_slice, pod

SECONDS = 30


def command(double: KubernetesDouble, user: str, folder: Path, *arguments: str) -> list[str]:
    options = ["--kubeconfig", str(double.kubeconfig(user)), "--cache-dir", str(folder / "cache")]
    return [
        str(Path(sys.executable).with_name("kubectl")),
        *options,
        f"--request-timeout={SECONDS}s",
        *arguments,
    ]


def kubectl(double: KubernetesDouble, user: str, folder: Path, *arguments: str) -> tuple[int, str]:
    words = command(double, user, folder, *arguments)
    ended = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    return ended.returncode, ended.stdout + ended.stderr


def test_kubectl_lists_watches_and_deletes(double: KubernetesDouble, tmp_path: Path) -> None:
    first = double.apply(pod("triton-0"))
    double.apply(pod("other", labels={}))
    double.apply(endpoint_slice("triton-0", 8001, 8002))
    code, text = kubectl(double, ADMIN, tmp_path, "get", "pods", "-l", SELECTOR, "-o", "json")
    assert code == 0, text
    (listed,) = json.loads(text)["items"]
    assert listed["metadata"]["uid"] == first["metadata"]["uid"]
    code, text = kubectl(double, ADMIN, tmp_path, "get", "pods,endpointslices", "-l", SELECTOR, "-o", "name")
    names = ["endpointslice.discovery.k8s.io/triton-triton-0", "pod/triton-0"]
    assert (code, sorted(text.split())) == (0, names)

    watch = subprocess.Popen(
        command(double, ADMIN, tmp_path, "get", "pods", "--watch", "--output-watch-events", "-o", "json"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watch.stdout is not None
    events = map(json.loads, watch.stdout)
    assert [next(events)["type"] for _ in range(2)] == ["ADDED", "ADDED"]
    double.apply(pod("triton-1"))
    assert next(events)["object"]["metadata"]["name"] == "triton-1"
    assert kubectl(double, ADMIN, tmp_path, "delete", "pod", "triton-1") == (
        0, f'pod "triton-1" deleted from {NAMESPACE} namespace\n',
    )  # fmt: skip
    assert next(events)["type"] == "DELETED"
    watch.terminate()
    watch.wait(SECONDS)
    watch.stdout.close()


def test_kubectl_is_bound_by_the_role(double: KubernetesDouble, tmp_path: Path) -> None:
    double.apply(pod("triton-0"))
    double.apply(endpoint_slice("triton-0", 8001, 8002))
    assert kubectl(double, FACADE, tmp_path, "get", "pods", "-o", "name") == (0, "pod/triton-0\n")
    code, text = kubectl(double, FACADE, tmp_path, "delete", "endpointslice", "triton-triton-0")
    assert code == 1
    assert "Forbidden" in text
    assert 'cannot delete resource "endpointslices"' in text


def test_the_double_refuses_what_the_schemas_forbid(double: KubernetesDouble) -> None:
    wrong = pod("triton-0")
    wrong["status"]["containerStatuses"][0]["restartcount"] = 1
    with pytest.raises(ValidationError, match="restartcount"):
        double.apply(wrong)


def test_the_chart_gives_no_more_rights_than_these() -> None:
    given = {(resource, verb) for rule in RULES for resource in rule["resources"] for verb in rule["verbs"]}
    pods = {("pods", verb) for verb in ("list", "watch", "delete")}
    assert given == pods | {("endpointslices", verb) for verb in ("list", "watch")}
    assert [bool(rule.get("resourceNames")) for rule in RULES] == [
        "delete" in rule["verbs"] for rule in RULES
    ]
