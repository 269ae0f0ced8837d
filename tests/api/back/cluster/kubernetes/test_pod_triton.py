"""The driver of a pod's Triton: which pod it serves from, and when it replaces one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from api.back.cluster import pod_triton, remote_triton
from api.back.cluster.kubernetes_api import KubernetesApi
from api.back.cluster.pod_triton import PodReplacement, PodTriton
from api.back.cluster.pods import PodDirectory
from api.errors import ServerFault
from runtime.contract import Device
from tests.api.back.cluster.kubernetes.double import FACADE, RULES, KubernetesDouble
from tests.api.back.cluster.kubernetes.objects import SELECTOR, endpoint_slice, pod
from tests.api.back.cluster.requests import until
from tests.e2e.appliance import free_port

pytestmark = pytest.mark.anyio
SECONDS = 10.0
NAME = "triton-0"


class Live(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Of Triton's protocol, the question whether it lives."""

    async def ServerLive(self, request: object, context: object) -> object:
        return service_pb2.ServerLiveResponse(live=True)


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    """A server that says that it lives; its port."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Live(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


@pytest.fixture
async def driver(
    double: KubernetesDouble, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PodTriton]:
    monkeypatch.setattr(remote_triton, "LIVE_SECONDS", 0.2)
    monkeypatch.setattr(pod_triton, "LEAST_SECONDS", 0.3)
    directory = PodDirectory(api, SELECTOR)
    async with directory.following():
        yield PodTriton(NAME, directory, PodReplacement(api), "key", Device.CPU, None)  # type: ignore[arg-type]


def place(double: KubernetesDouble, port: int, *, ready: bool = True, started: bool = True) -> str:
    """A new pod at that port; its uid."""
    double.apply(endpoint_slice(NAME, port, port + 1, ready=ready))
    uid: str = double.apply(pod(NAME, started=started))["metadata"]["uid"]
    return uid


async def test_it_follows_the_pods_of_its_name(double: KubernetesDouble, driver: PodTriton) -> None:
    with pytest.raises(ServerFault, match="there is no pod triton-0"):
        await driver.start(0.1)
    assert [driver.leaving] == [True]
    async with listening() as first, listening() as second:
        starting = asyncio.create_task(driver.start(SECONDS))
        place(double, first)
        await starting
        assert driver.endpoints.grpc == f"127.0.0.1:{first}"
        assert not driver.leaving
        dying = asyncio.create_task(driver.died())
        double.remove("pods", NAME)
        assert await dying == "its pod is gone"
        await driver.kill()  # as the supervisor does; there is nothing to delete
        place(double, second)
        await driver.start(SECONDS)
        assert driver.endpoints.grpc == f"127.0.0.1:{second}"
        dying = asyncio.create_task(driver.died())
        place(double, second)  # a new pod at the same address
        assert await dying == "its pod is gone"
        await driver.stop()
    assert double.count("delete") == 0


async def test_a_start_ends_where_the_pod_gets_another_address(
    double: KubernetesDouble, driver: PodTriton
) -> None:
    """It would else ask at the old one for the whole time, which grows to minutes with each failure."""

    async def begins(port: int) -> None:
        driver.endpoints = pod_triton.NOWHERE
        await until(lambda: driver.endpoints.grpc == f"127.0.0.1:{port}", "it asks there", SECONDS)

    first, second = free_port(), free_port()
    place(double, first, ready=False)
    starting = asyncio.create_task(driver.start(3600))
    await begins(first)
    double.remove("pods", NAME)
    with pytest.raises(ServerFault, match="pod triton-0 was replaced, or has another address now"):
        await starting
    place(double, first, ready=False)
    starting = asyncio.create_task(driver.start(3600))
    await begins(first)
    double.apply(endpoint_slice(NAME, second, second + 1, ready=False))  # its node began again
    with pytest.raises(ServerFault, match="has another address now"):
        await starting
    assert double.count("delete") == 0


async def test_a_pod_whose_server_is_dead_is_replaced_and_not_again_soon(
    double: KubernetesDouble, driver: PodTriton
) -> None:
    place(double, free_port(), ready=False)
    with pytest.raises(ServerFault, match="no Triton answers"):
        await driver.start(0.3)
    assert double.count("delete") == 1
    assert ("pods", NAME) not in double.objects
    place(double, free_port(), ready=False)  # no better
    with pytest.raises(ServerFault, match="no Triton answers"):
        await driver.start(0.3)
    assert double.count("delete") == 1


async def test_two_facades_that_find_a_pod_dead_delete_it_and_not_the_next_one(
    double: KubernetesDouble, driver: PodTriton, api: KubernetesApi
) -> None:
    def make_another(name: str) -> None:
        double.remove("pods", name)
        double.apply(pod(name, started=False))

    other = PodTriton(NAME, driver._directory, PodReplacement(api), "key", Device.CPU, None)  # type: ignore[arg-type]
    old = place(double, free_port(), ready=False)
    await until(lambda: NAME in driver._directory.pods, "it is seen", SECONDS)
    found = driver._directory.pods[NAME]
    double.kubelet = make_another
    await driver._replacement.replace(found, "it is dead")
    await other._replacement.replace(found, "it is dead")  # it has not yet seen that the pod is gone
    assert double.count("delete") == 2
    new = double.objects["pods", NAME]["metadata"]
    assert new["uid"] != old
    assert "deletionTimestamp" not in new


async def test_replacements_are_fewer_the_more_there_were(driver: PodTriton) -> None:
    limit = driver._replacement._limit
    made = [minute for minute in range(24 * 60) if limit.allows(60.0 * minute)]
    pauses = [after - before for before, after in itertools.pairwise(made)]
    assert pauses[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert set(pauses[7:]) == {60}


async def test_a_pod_that_kubernetes_finds_ready_is_not_replaced(
    double: KubernetesDouble, driver: PodTriton
) -> None:
    place(double, free_port())
    with pytest.raises(
        ServerFault, match="although Kubernetes finds pod triton-0 ready: does a NetworkPolicy"
    ):
        await driver.start(0.3)
    # Its image is being pulled, or it crashes at start.
    uid = place(double, free_port(), ready=False, started=False)
    await until(lambda: driver._directory.pods[NAME].uid == uid, "it is seen", SECONDS)
    with pytest.raises(ServerFault, match=r"no Triton answers at \S+ within 0.3 s$"):
        await driver.start(0.3)
    assert double.count("delete") == 0


async def test_a_restart_replaces_the_pod(double: KubernetesDouble, driver: PodTriton) -> None:
    async with listening() as port:
        uid = place(double, port)
        await driver.start(SECONDS)
        dying = asyncio.create_task(driver.died())
        await asyncio.sleep(0)  # it begins
        double.kubelet = lambda name: None
        await driver.kill()
        assert "given up" in await dying or driver.leaving
        assert double.count("delete") == 1
        ending = double.objects["pods", NAME]["metadata"]
        assert (ending["uid"], ending["deletionGracePeriodSeconds"]) == (uid, 5)
        await until(lambda: driver.leaving, "its replicas move", SECONDS)
        with pytest.raises(ServerFault, match="pod triton-0 is ending"):
            await driver.start(0.2)


async def test_without_the_right_to_delete_the_log_says_so(
    double: KubernetesDouble, driver: PodTriton, caplog: pytest.LogCaptureFixture
) -> None:
    double.rules[FACADE] = [rule for rule in RULES if "delete" not in rule["verbs"]]
    place(double, free_port(), ready=False)
    with pytest.raises(ServerFault, match="no Triton answers"):
        await driver.start(0.3)
    assert "pod triton-0 cannot be replaced: the right to delete pods in namespace 'inference'" in caplog.text
