"""What is asked of every pod: Pod Security "restricted", limits, probes, fixed images, time to end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.front.routes import ENDPOINTS
from tests.helm.charts import NAMES, Manifest, containers, label, merged, of_kind, pod_spec, workloads

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SERVING = ("Deployment", "StatefulSet")
# Workloads that are the same in several value sets are looked at once.
CASES = {json.dumps(item): (name, label(item)) for name in NAMES for item in workloads(name)}.values()


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The value set, and one of its workloads."""
    found: tuple[str, str] = request.param
    return found


@pytest.fixture
def workload(case: tuple[str, str]) -> Manifest:
    return next(item for item in workloads(case[0]) if label(item) == case[1])


def test_pod_security_is_restricted(workload: Manifest) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, in its strictest form."""
    spec = pod_spec(workload)
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["runAsGroup"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "hostUsers", "hostname"}
    for volume in spec.get("volumes", []):
        (kind,) = volume.keys() - {"name"}
        assert kind in VOLUMES
    for container in containers(workload):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert not own.keys() & {"privileged", "procMount", "runAsUser", "runAsNonRoot", "seccompProfile"}
        assert all("hostPort" not in port for port in container.get("ports", []))


def test_the_root_is_read_only_and_what_is_written_has_a_bound(workload: Manifest) -> None:
    volumes = {volume["name"]: volume for volume in pod_spec(workload).get("volumes", [])}
    for container in containers(workload):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]
        for mount in container["volumeMounts"]:
            volume = volumes.get(mount["name"], {"persistentVolumeClaim": {}})
            assert mount.get("readOnly", False) is ("secret" in volume or mount["name"] == "source")
    for volume in volumes.values():
        assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]


def test_images_are_fixed_and_resources_limited(workload: Manifest) -> None:
    for container in containers(workload):
        name, _, version = container["image"].rpartition("@" if "@" in container["image"] else ":")
        assert name
        assert version.startswith("sha256:") or version not in ("", "latest")
        resources = container["resources"]
        assert resources["limits"].keys() >= {"cpu", "memory"}
        assert resources["requests"].keys() >= {"cpu", "memory"}


def test_services_bring_no_variables(workload: Manifest) -> None:
    """Those of a Service `lmaas-api` begin with LMAAS_API_, and are no settings."""
    assert pod_spec(workload)["enableServiceLinks"] is False


def test_what_serves_has_probes_that_spare_a_pod_that_loads(workload: Manifest) -> None:
    if workload["kind"] not in SERVING:
        assert all("livenessProbe" not in container for container in containers(workload))
        return
    (container,) = pod_spec(workload)["containers"]
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = container[kind]
        assert len(probe.keys() & {"httpGet", "grpc", "exec"}) == 1
        assert probe.get("timeoutSeconds", 1) <= probe.get("periodSeconds", 10) or kind == "startupProbe"
    liveness = container["livenessProbe"]
    assert liveness["failureThreshold"] * liveness.get("periodSeconds", 10) >= 60
    if "httpGet" in liveness:
        assert liveness["httpGet"]["path"] == "/health/live"
        assert container["readinessProbe"]["httpGet"]["path"] == "/health/serving"
        keyless = {endpoint.path for endpoint in ENDPOINTS if endpoint.keyless and endpoint.open}
        assert {"/health/live", "/health/serving"} <= keyless


def test_a_pod_has_time_to_drain(case: tuple[str, str], workload: Manifest) -> None:
    if "lifecycle" not in (container := pod_spec(workload)["containers"][0]):
        return
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause > 0
    assert pod_spec(workload)["terminationGracePeriodSeconds"] > pause + _drain(case[0], workload)


def _drain(name: str, workload: Manifest) -> float:
    names = {item["name"]: item.get("value") for item in pod_spec(workload)["containers"][0]["env"]}
    for item in of_kind(name, "ConfigMap"):
        names = {**item["data"], **names}
    return float(names.get("LMAAS_DRAIN_SECONDS") or 6)


@pytest.mark.parametrize("name", NAMES)
def test_shared_memory_is_set(name: str) -> None:
    (triton,) = (
        item for item in of_kind(name, "StatefulSet") if item["metadata"]["name"].endswith("-triton")
    )
    spec = pod_spec(triton)
    (shm,) = (mount for mount in spec["containers"][0]["volumeMounts"] if mount["mountPath"] == "/dev/shm")
    volume: dict[str, Any] = next(item for item in spec["volumes"] if item["name"] == shm["name"])
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "512Mi"}


@pytest.mark.parametrize("name", NAMES)
def test_a_volume_of_one_node_is_left_before_it_is_taken(name: str) -> None:
    modes = {mode for item in of_kind(name, "PersistentVolumeClaim") for mode in item["spec"]["accessModes"]}
    (api,) = of_kind(name, "Deployment")
    recreated = api["spec"]["strategy"] == {"type": "Recreate"}
    assert recreated == ("ReadWriteOnce" in modes)
    if recreated:
        sharing = [item for item in workloads(name) if _mounts_shared(item)]
        terms = [
            pod_spec(item)["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            for item in sharing
        ]
        assert len(terms) == 2
        assert terms[0] == terms[1]
        (term,) = terms[0]
        for item in sharing:
            assert (
                term["labelSelector"]["matchLabels"].items()
                <= item["spec"]["template"]["metadata"]["labels"].items()
            )


@pytest.mark.parametrize("name", NAMES)
def test_a_drain_of_the_only_node_that_pods_can_run_on_ends(name: str) -> None:
    """There a budget would wait for a new pod, which waits for the node."""
    found = merged(name)
    several = found["storage"]["accessMode"] == "ReadWriteMany"
    wanted = {each for each in ("api", "triton") if several and found[each]["pdb"]["enabled"]}
    budgets = {item["metadata"]["name"].rpartition("-")[2] for item in of_kind(name, "PodDisruptionBudget")}
    assert budgets == wanted


def _mounts_shared(workload: Manifest) -> bool:
    return any(volume["name"] == "shared" for volume in pod_spec(workload).get("volumes", []))
