"""Real Tritons as the pods of a cluster: they serve, come and go, are evicted, and are replaced."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from api.back.backend import Backend
from api.back.cluster import membership, pods, remote_triton, supervisor
from api.back.cluster.installation import Installation, assemble_backends
from api.back.cluster.kubernetes_api import KubernetesApi
from api.back.cluster.membership import Membership
from api.back.cluster.pods import PodDirectory
from api.back.cluster.pool import ServerPool
from api.back.cluster.records import ModelVersion, ServerState
from api.back.cluster.repository import ModelRepository
from api.back.cluster.server_home import Ports, ServerHome
from api.back.cluster.status import NO_SERVER
from api.back.settings import BackSettings
from api.back.store.records import DeploymentState
from api.errors import ServerFault, Unavailable
from tests.api.back.cluster.deployments import ScriptedDriver
from tests.api.back.cluster.kubernetes.double import FACADE, KubernetesDouble
from tests.api.back.cluster.kubernetes.objects import SELECTOR, endpoint_slice, pod
from tests.api.back.cluster.requests import complete, language_model, until
from tests.api.back.cluster.test_remote import KEY, Elsewhere
from tests.e2e.appliance import free_port

pytestmark = pytest.mark.anyio
SECONDS = 60.0
READY = DeploymentState.READY


class Pods:
    """triton-0 and triton-1, and the kubelet that runs them."""

    def __init__(self, double: KubernetesDouble, there: BackSettings) -> None:
        self.there = there
        self.running: dict[str, Elsewhere] = {}
        self._double = double

    async def create(self, name: str) -> None:
        home = ServerHome(self.there, int(name[-1]))
        triton = Elsewhere(home, Ports(None, free_port(), free_port()))
        triton.home.repository.mkdir(parents=True, exist_ok=True)
        await triton.start()
        self.running[name] = triton
        self._double.apply(pod(name))
        self.say_ready(name, True)

    def say_ready(self, name: str, ready: bool) -> None:
        ports = self.running[name].ports
        self._double.apply(endpoint_slice(name, ports.grpc, ports.metrics, ready=ready))

    async def end(self, name: str) -> None:
        """Its processes, and its object."""
        triton = self.running.pop(name)
        await triton.die()
        self._double.remove("pods", name)
        self._double.remove("endpointslices", f"triton-{name}")

    def evict(self, name: str) -> None:
        """Begin to end it."""
        item = self._double.objects["pods", name]
        metadata = {**item["metadata"], "deletionTimestamp": "2026-11-29T12:00:30Z"}
        self._double.apply({**item, "metadata": metadata})

    async def close(self) -> None:
        for triton in self.running.values():
            assert triton.process is not None
            await triton.process.kill()


@pytest.fixture
async def cluster_pods(
    double: KubernetesDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Pods]:
    monkeypatch.setattr(membership, "GONE_SECONDS", 0.2)
    monkeypatch.setattr(membership, "LOOK_SECONDS", 0.1)
    there = BackSettings(home=tmp_path / "elsewhere")
    assemble_backends(there, Installation.find())
    made = Pods(double, there)
    await made.create("triton-0")
    yield made
    await made.close()


@pytest.fixture
def pod_settings(cluster_settings: BackSettings, cluster_pods: Pods, tmp_path: Path) -> BackSettings:
    return dataclasses.replace(
        cluster_settings,
        servers=0,
        kubernetes_selector=SELECTOR,
        triton_repository=str(cluster_pods.there.triton / "{server}" / "repository"),
        triton_key=KEY,
        retry_seconds=SECONDS,
    )


def servers(backend: Backend) -> dict[str, ServerState]:
    return {server.name: server.state for server in backend.cluster.servers()}


def replicas(backend: Backend) -> dict[str, DeploymentState]:
    (record,) = backend.cluster.deployments()
    return dict(record.servers)


async def test_pods_come_serve_and_go(
    pod_settings: BackSettings,
    cluster_pods: Pods,
    double: KubernetesDouble,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Backend.open(pod_settings) as backend:
        record = await backend.cluster.deploy("tiny", 1, "fp32", replicas=2)  # more than there are pods
        assert record.servers == {"triton-0": READY}
        assert "1 of 2 replicas" in str(backend.cluster.readiness().warnings)
        assert backend.cluster.capacity()[0].wanted == 2, "an autoscaler is to make the other pod"
        expected = await complete(backend, language_model(backend))
        double.down()  # what is known of the pods stays in use
        await cluster_pods.create("triton-1")
        assert await complete(backend, language_model(backend)) == expected
        double.up()
        await until(lambda: replicas(backend).get("triton-1") is READY, "it joined, with a replica", SECONDS)
        assert replicas(backend) == {"triton-0": READY, "triton-1": READY}

        waiting = [
            asyncio.create_task(complete(backend, language_model(backend), stream=False)) for _ in range(8)
        ]
        await cluster_pods.end("triton-1")  # in mid-request
        assert {await task for task in waiting} == {expected}
        await until(lambda: replicas(backend) == {"triton-0": READY}, "it is dropped", SECONDS)
        assert list(servers(backend)) == ["triton-0"]
        assert "1 of 2 replicas" in str(backend.cluster.readiness().warnings)

        await cluster_pods.create("triton-1")  # the next pod of that name, at other ports
        await until(lambda: replicas(backend).get("triton-1") is READY, "it got its replica", SECONDS)
        assert await complete(backend, language_model(backend)) == expected
        await backend.cluster.adjust(record.id, replicas=1)
        await evict_the_busy_pod(backend, cluster_pods, expected)
        (last,) = replicas(backend)
    await cluster_pods.end(last)
    double.down()
    monkeypatch.setattr(pods, "FIRST_SECONDS", 0.1)
    async with Backend.open(pod_settings) as backend:  # without a pod, and without the API server
        found = backend.cluster.readiness()
        assert found.reasons == [NO_SERVER, f"tiny/1 ({record.id}) waits for a server"]
        assert "the API server of Kubernetes" in str(found.warnings)
        double.up()
        await until(
            lambda: "no pod has the labels" in str(backend.cluster.readiness().warnings), "it is back"
        )
        await backend.cluster.adjust(record.id, replicas=3)
        with pytest.raises(Unavailable, match="there is no model server; no pod has the labels"):
            await backend.cluster.deploy("head", 1, "fp32")
        await cluster_pods.create(last)
        await until(lambda: replicas(backend) == {last: READY}, "it serves again", SECONDS)
        assert backend.cluster.readiness().warnings == ["tiny/1 has 1 of 3 replicas: servers are missing"]
        assert await complete(backend, language_model(backend)) == expected
        await backend.cluster.undeploy(record.id)


async def evict_the_busy_pod(backend: Backend, cluster_pods: Pods, expected: str) -> None:
    """Its replica moves to the other pod before it ends, and no request fails."""
    (busy,) = replicas(backend)
    other = "triton-1" if busy == "triton-0" else "triton-0"
    cluster_pods.evict(busy)
    while replicas(backend) != {other: READY}:
        assert await complete(backend, language_model(backend)) == expected
    assert servers(backend)[busy] is ServerState.DRAINING
    await cluster_pods.end(busy)
    await until(lambda: list(servers(backend)) == [other], "it is dropped", SECONDS)
    assert await complete(backend, language_model(backend)) == expected


async def test_a_server_that_hangs_gets_a_new_pod(
    pod_settings: BackSettings,
    cluster_pods: Pods,
    double: KubernetesDouble,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "START_SECONDS", 1.0)
    monkeypatch.setattr(remote_triton, "LIVE_SECONDS", 0.5)
    monkeypatch.setattr(membership, "GONE_SECONDS", SECONDS)
    loop = asyncio.get_running_loop()

    async def replace(name: str) -> None:
        await cluster_pods.end(name)
        await cluster_pods.create(name)

    double.kubelet = lambda name: asyncio.run_coroutine_threadsafe(replace(name), loop).result()
    async with Backend.open(pod_settings) as backend:
        record = await backend.cluster.deploy("tiny", 1, "fp32")
        expected = await complete(backend, language_model(backend))
        hung = cluster_pods.running["triton-0"].process
        assert hung is not None
        os.kill(hung.pid, signal.SIGSTOP)
        cluster_pods.say_ready("triton-0", False)  # as its readiness probe finds
        waiting = asyncio.create_task(complete(backend, language_model(backend), stream=False))
        await until(lambda: double.count("delete") == 1, "its pod is deleted", SECONDS)
        assert await waiting == expected
        await until(lambda: backend.cluster.readiness().ready, "healed", SECONDS)
        assert servers(backend) == {"triton-0": ServerState.READY}
        assert backend.cluster.servers()[0].restarts >= 1
        await backend.cluster.undeploy(record.id)
    assert double.count("delete") == 1


class Repository:
    """Of a pod that never starts: nothing is laid out in it."""

    def clear(self) -> None:
        pass

    def keep(self, versions: set[ModelVersion]) -> None:
        pass


class PodDriver(ScriptedDriver):
    """It has the name of its pod, and maybe a folder."""

    def __init__(self, name: str, repository: Repository | None) -> None:
        super().__init__(int(name[-1]))
        self.failures = [ServerFault("it does not run")] * 100
        self._repository = repository

    @property
    def repository(self) -> ModelRepository:
        if self._repository is None:
            raise OSError("Stale file handle")
        return cast(ModelRepository, self._repository)


async def test_a_pod_whose_folder_fails_keeps_no_other_from_joining(
    cluster_settings: BackSettings, double: KubernetesDouble, api: KubernetesApi
) -> None:
    for number, name in enumerate(("triton-0", "triton-1")):
        double.apply(pod(name))
        double.apply(endpoint_slice(name, 9001 + number, 9101 + number))
    cluster = SimpleNamespace(pool=ServerPool(cluster_settings, []), present={})
    directory = PodDirectory(api, SELECTOR)
    drivers = {"triton-0": PodDriver("triton-0", None), "triton-1": PodDriver("triton-1", Repository())}
    async with directory.following():
        made = Membership(cast(Any, cluster), directory, cast(Any, drivers.get))
        await made._look()
        assert [server.name for server in cluster.pool.servers] == ["triton-1"]
        drivers["triton-0"]._repository = Repository()  # its folder is back
        await made._look()
        assert len(cluster.pool.servers) == 1, "not at once"
        made._not_before.clear()
        await made._look()
        assert [server.name for server in cluster.pool.servers] == ["triton-0", "triton-1"]
        await cluster.pool.close()


async def test_without_the_client_the_start_says_what_to_install(
    cluster_settings: BackSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "api.back.cluster.membership", None)
    settings = dataclasses.replace(cluster_settings, servers=0, kubernetes_selector=SELECTOR)
    with pytest.raises(ServerFault, match=r"pip install 'lmaas\[kubernetes\]'"):
        async with Backend.open(settings):
            pass


async def test_the_start_waits_for_a_pod_and_ends_where_it_may_not_look(
    cluster_settings: BackSettings, double: KubernetesDouble
) -> None:
    settings = dataclasses.replace(
        cluster_settings, servers=0, kubernetes_selector=SELECTOR, triton_repository="/nowhere/{server}"
    )

    async def open_it() -> None:
        async with Backend.open(settings):
            pass

    opening = asyncio.create_task(open_it())
    await until(lambda: double.count("watch") or opening.done(), "it looks for pods", SECONDS)
    assert not opening.done()
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    double.rules[FACADE] = []
    with pytest.raises(ServerFault, match="the right to list pods in namespace 'inference' is missing"):
        await open_it()
