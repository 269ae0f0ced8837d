"""Calls of the API server: rights, preconditions, and refusals."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from kubernetes.aio.config import incluster_config

from api.back.cluster.kubernetes_api import ENDPOINT_SLICES, PODS, KubernetesApi, KubernetesFault, Resource
from tests.api.back.cluster.kubernetes.double import FACADE, RULES, KubernetesDouble, Refusal
from tests.api.back.cluster.kubernetes.objects import NAMESPACE, SELECTOR, pod

pytestmark = pytest.mark.anyio


async def test_lists_by_labels(double: KubernetesDouble, api: KubernetesApi) -> None:
    double.apply(pod("triton-0"))
    double.apply(pod("other", labels={}))
    found = await api.list(PODS, SELECTOR)
    assert [item["metadata"]["name"] for item in found["items"]] == ["triton-0"]
    assert (await api.list(ENDPOINT_SLICES, SELECTOR))["items"] == []
    assert api.namespace == NAMESPACE  # of the current context


class AfterTwoMinutes:
    """The module `datetime` as the client sees it."""

    minutes = 2
    timedelta = timedelta

    class datetime:
        @staticmethod
        def now() -> datetime:
            return datetime.now() + timedelta(minutes=AfterTwoMinutes.minutes)


async def test_in_a_pod_its_service_account_is_used(
    double: KubernetesDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(f"{FACADE}-token")
    (tmp_path / "namespace").write_text(NAMESPACE)
    host, _, port = double.url.removeprefix("https://").partition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    for name, file in (("SERVICE_TOKEN_FILENAME", "token"), ("SERVICE_CERT_FILENAME", "cert.pem")):
        monkeypatch.setattr(incluster_config, name, str(tmp_path / file))
    double.apply(pod("triton-0"))
    double.rules["renewed"] = RULES
    async with KubernetesApi.open("") as api:
        assert api.namespace == NAMESPACE
        assert len((await api.list(PODS, SELECTOR))["items"]) == 1
        (tmp_path / "token").write_text("renewed-token")  # as the kubelet does before the old one expires
        monkeypatch.setattr(incluster_config, "datetime", AfterTwoMinutes)
        assert len((await api.list(PODS, SELECTOR))["items"]) == 1
        assert ("renewed", "list", "pods") in double.calls
        (tmp_path / "token").write_text("")
        monkeypatch.setattr(AfterTwoMinutes, "minutes", 4)
        with pytest.raises(KubernetesFault, match="Token file exists but empty"):
            await api.list(PODS, SELECTOR)
    (tmp_path / "token").unlink()
    with pytest.raises(KubernetesFault, match=r"no access to Kubernetes is configured: .*token"):
        async with KubernetesApi.open(""):
            pass


async def test_a_deletion_is_of_one_pod_and_not_of_the_next_with_its_name(
    double: KubernetesDouble, api: KubernetesApi
) -> None:
    old = double.apply(pod("triton-0"))["metadata"]["uid"]
    double.remove("pods", "triton-0")
    new = double.apply(pod("triton-0"))["metadata"]["uid"]
    await api.delete_pod("triton-0", old)  # a conflict, which says that it is done
    assert ("pods", "triton-0") in double.objects
    await api.delete_pod("triton-0", new)
    assert double.objects == {}
    await api.delete_pod("triton-0", new)  # it is gone
    assert double.count("delete") == 3


async def test_no_pod_but_those_of_triton_can_be_deleted(
    double: KubernetesDouble, api: KubernetesApi
) -> None:
    uid = double.apply(pod("postgresql-0"))["metadata"]["uid"]
    with pytest.raises(KubernetesFault, match="the right to delete pods in namespace 'inference' is missing"):
        await api.delete_pod("postgresql-0", uid)
    assert ("pods", "postgresql-0") in double.objects


async def test_a_busy_server_is_asked_again_when_it_says(
    double: KubernetesDouble, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("api.back.cluster.kubernetes_api.asyncio.sleep", sleep)
    uid = double.apply(pod("triton-0"))["metadata"]["uid"]
    double.refusals = [Refusal("delete", 429, "TooManyRequests", {"Retry-After": "7"})] * 2
    await api.delete_pod("triton-0", uid)
    assert double.objects == {}
    assert [wait for wait in waits if wait] == [7.0, 7.0]
    double.refusals = [Refusal("delete", 429, "TooManyRequests", {"Retry-After": "3600"})] * 3
    with pytest.raises(KubernetesFault) as caught:  # tries are bounded, and so is a wait
        await api.delete_pod("triton-0", uid)
    assert (caught.value.status, caught.value.retry_after) == (429, 60.0)
    assert double.refusals == []


@pytest.mark.parametrize(("verb", "resource"), [("list", PODS), ("watch", ENDPOINT_SLICES), ("delete", PODS)])
async def test_a_missing_right_is_named(
    double: KubernetesDouble, api: KubernetesApi, verb: str, resource: Resource
) -> None:
    def without(rule: dict[str, list[str]]) -> dict[str, list[str]]:
        lacks = resource.name in rule["resources"]
        return {**rule, "verbs": [each for each in rule["verbs"] if not lacks or each != verb]}

    double.rules[FACADE] = [without(rule) for rule in RULES]

    async def call() -> None:
        if verb == "delete":
            await api.delete_pod("triton-0", "uid")
        elif verb == "list":
            await api.list(resource, SELECTOR)
        else:
            async with api.watch(resource, SELECTOR, "1"):
                pass

    with pytest.raises(KubernetesFault, match=f"the right to {verb} {resource.name} in namespace"):
        await call()


async def test_a_token_that_is_refused_and_a_server_that_is_away(
    double: KubernetesDouble, api: KubernetesApi
) -> None:
    rules = double.rules.pop(FACADE)
    with pytest.raises(KubernetesFault, match="does not accept the token"):
        await api.list(PODS, SELECTOR)
    double.rules[FACADE] = rules
    double.down()
    with pytest.raises(KubernetesFault, match="the connection to the API server of Kubernetes failed"):
        await api.list(PODS, SELECTOR)
