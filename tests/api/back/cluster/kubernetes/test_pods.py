"""The view of pods follows the API server, and outlives its faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from api.back.cluster import kubernetes_api, pods
from api.back.cluster.addresses import Endpoints
from api.back.cluster.kubernetes_api import KubernetesApi, KubernetesFault
from api.back.cluster.pods import PodDirectory, read_pods
from tests.api.back.cluster.kubernetes.double import FACADE, RULES, KubernetesDouble, Refusal
from tests.api.back.cluster.kubernetes.objects import SELECTOR, endpoint_slice, pod
from tests.api.back.cluster.requests import until

pytestmark = pytest.mark.anyio
SECONDS = 10.0


def watches(double: KubernetesDouble) -> int:
    return double.count("watch") + double.count("watch", "endpointslices")


@pytest.fixture
async def directory(double: KubernetesDouble, api: KubernetesApi) -> AsyncIterator[PodDirectory]:
    """It has seen triton-0, and both its watches are open."""
    double.apply(pod("triton-0"))
    double.apply(endpoint_slice("triton-0", 8001, 8002))
    made = PodDirectory(api, SELECTOR)
    async with made.following():
        await until(lambda: watches(double) == 2, "both watch", SECONDS)
        yield made


async def sees(directory: PodDirectory, *names: str) -> None:
    await asyncio.wait_for(directory.until(lambda: sorted(directory.pods) == list(names)), SECONDS)


async def is_well(directory: PodDirectory, well: bool = True) -> None:
    await until(lambda: (directory.fault is None) is well, "the mirrors say so", SECONDS)


async def test_pods_come_change_and_go(double: KubernetesDouble, directory: PodDirectory) -> None:
    await sees(directory, "triton-0")
    first = directory.pods["triton-0"]
    assert (first.endpoints, first.ready) == (Endpoints("127.0.0.1:8001", None, "127.0.0.1:8002"), True)
    double.apply(pod("triton-1", phase="Pending", started=False))
    await sees(directory, "triton-0", "triton-1")
    assert directory.pods["triton-1"].state.startswith("pod triton-1 is Pending, and no EndpointSlice")
    double.apply(endpoint_slice("triton-1", 9001, 9002, ready=False))
    await asyncio.wait_for(directory.until(lambda: directory.pods["triton-1"].endpoints), SECONDS)
    assert directory.missing() is None  # one serves
    double.kubelet = lambda name: None  # it takes its time
    await directory._mirrors[0]._api.delete_pod("triton-0", first.uid)
    await asyncio.wait_for(directory.until(lambda: directory.pods["triton-0"].ending), SECONDS)
    double.remove("pods", "triton-0")
    await sees(directory, "triton-1")
    assert directory.missing() == "pod triton-1 is Pending, and not ready"
    double.apply(pod("triton-1", phase="Failed"))  # evicted: the object stays for a while
    await sees(directory)
    assert directory.missing() == f"no pod has the labels {SELECTOR}"


async def test_a_cut_watch_goes_on_where_it_was(double: KubernetesDouble, directory: PodDirectory) -> None:
    for number in range(1, 4):
        double.apply(pod(f"triton-{number}"))
        await sees(directory, *(f"triton-{each}" for each in range(number + 1)))
        double.cut()
    double.apply(pod("triton-4"))
    await sees(directory, *(f"triton-{each}" for each in range(5)))
    assert double.count("list") == 1


async def test_what_the_server_forgot_is_listed_anew(
    double: KubernetesDouble, directory: PodDirectory
) -> None:
    double.remove("pods", "triton-0")
    double.apply(pod("triton-5"))
    await sees(directory, "triton-5")
    double.down()
    double.remove("pods", "triton-5")
    double.apply(pod("triton-6"))
    double.forget()  # of the removal the watch will hear nothing
    double.up()
    await sees(directory, "triton-6")
    assert double.count("list") == 2
    await is_well(directory)


async def test_a_bookmark_saves_a_list(double: KubernetesDouble, directory: PodDirectory) -> None:
    double.bookmark()
    version = str(double.version)
    await until(lambda: {each._version for each in directory._mirrors} == {version}, "both have it", SECONDS)
    double.forget()
    double.oldest = int(version)
    double.cut()
    double.apply(pod("triton-1"))
    await sees(directory, "triton-0", "triton-1")
    assert double.count("list") == 1


async def test_a_watch_that_says_nothing_is_ended_and_begun_again(
    double: KubernetesDouble, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "WATCH_SECONDS", 1)
    monkeypatch.setattr(kubernetes_api, "SLOW_SECONDS", -0.8)  # the connection gives up before the server
    made = PodDirectory(api, SELECTOR)
    with double.slow():
        async with made.following():
            double.apply(pod("triton-0"))
            await is_well(made, False)
            assert "does not answer in time" in str(made.fault)
            double.stalled = False
            await sees(made, "triton-0")
    assert double.count("list") == 1


async def test_while_the_server_is_away_the_last_pods_stay(
    double: KubernetesDouble, directory: PodDirectory
) -> None:
    double.down()
    await is_well(directory, False)
    await sees(directory, "triton-0")
    assert "connection" in str(directory.fault)
    double.apply(pod("triton-1"))
    double.up()
    await sees(directory, "triton-0", "triton-1")
    await is_well(directory)


async def test_a_busy_server_is_left_alone_as_long_as_it_says(
    double: KubernetesDouble, directory: PodDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    monkeypatch.setattr("api.back.cluster.pods.asyncio.sleep", sleep)
    double.refusals = [Refusal("watch", 429, "TooManyRequests", {"Retry-After": "9"})]
    double.cut()
    double.apply(pod("triton-1"))
    await sees(directory, "triton-0", "triton-1")
    await is_well(directory)
    assert 9.0 in waits


async def test_the_start_says_which_right_is_missing(double: KubernetesDouble, api: KubernetesApi) -> None:
    double.rules[FACADE] = [rule for rule in RULES if "pods" in rule["resources"]]
    with pytest.raises(KubernetesFault, match=r"the right to list endpointslices .* 'discovery.k8s.io'"):
        async with PodDirectory(api, SELECTOR).following():
            pass
    double.rules[FACADE] = [rule for rule in RULES if "pods" not in rule["resources"]]
    with pytest.raises(KubernetesFault, match="the right to list pods"):
        async with PodDirectory(api, SELECTOR).following():
            pass


async def test_a_start_while_the_server_is_away_has_the_pods_when_it_is_back(
    double: KubernetesDouble, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pods, "FIRST_SECONDS", 0.1)
    double.apply(pod("triton-0"))
    double.down()
    made = PodDirectory(api, SELECTOR)
    async with made.following():
        assert made.pods == {}
        assert "the connection to the API server of Kubernetes failed" in str(made.missing())
        double.up()
        await sees(made, "triton-0")


async def test_a_version_that_the_server_refuses_is_given_up(
    double: KubernetesDouble, directory: PodDirectory
) -> None:
    """As after a restore of its own data, which has other versions."""
    double.refusals = [Refusal("watch", 500, "InternalError")] * 2
    double.cut()
    double.apply(pod("triton-1"))
    await sees(directory, "triton-0", "triton-1")
    await is_well(directory)
    assert double.count("list") + double.count("list", "endpointslices") == 4


async def test_an_address_is_of_one_pod_and_not_of_the_next_with_its_name(
    double: KubernetesDouble, directory: PodDirectory
) -> None:
    """The API server has the new pod before its EndpointSlice has it."""
    old, new = pod("triton-1"), pod("triton-1")
    double.apply(old)
    double.apply(endpoint_slice("triton-1", 1, 2, uid=old["metadata"]["uid"]))
    await asyncio.wait_for(directory.until(lambda: _has_address(directory)), SECONDS)
    double.apply(new)
    await asyncio.wait_for(directory.until(lambda: not _has_address(directory)), SECONDS)
    double.apply(endpoint_slice("triton-1", 1, 2, uid=new["metadata"]["uid"]))
    await asyncio.wait_for(directory.until(lambda: _has_address(directory)), SECONDS)


def _has_address(directory: PodDirectory) -> bool:
    found = directory.pods.get("triton-1")
    return found is not None and found.endpoints is not None


def test_reading_of_objects() -> None:
    both = endpoint_slice("a", 1, 2, address="fd00::1", ready=None)
    (found,) = read_pods([pod("a")], [both])
    assert (found.endpoints, found.ready) == (Endpoints("[fd00::1]:1", None, "[fd00::1]:2"), True)
    both["endpoints"][0]["conditions"] = {"ready": True, "serving": False}  # not ready, and published
    assert [each.ready for each in read_pods([pod("a")], [both])] == [False]
    both["ports"] = both["ports"][:1]
    (found,) = read_pods([pod("a", started=False)], [both])
    assert (found.endpoints, found.started) == (Endpoints("[fd00::1]:1", None, "[fd00::1]:2"), False)
    metrics = {**endpoint_slice("a", 1, 7, address="fd00::1"), "ports": [{"name": "metrics", "port": 7}]}
    (found,) = read_pods([pod("a")], [metrics, both])  # of two Services
    assert found.endpoints == Endpoints("[fd00::1]:1", None, "[fd00::1]:7")
    (found,) = read_pods([pod("a")], [metrics])
    assert found.endpoints is None
    empty = {**both, "endpoints": None, "ports": None}
    assert next(iter(read_pods([pod("a")], [empty]))).endpoints is None
    assert list(read_pods([pod("a", phase="Failed"), pod("b", phase="Succeeded")], [both])) == []
