"""Triton's pods as Kubernetes sees them: two lists of its API, mirrored, and one view of both.

While the API server cannot be reached, the view stays as it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from api.back.cluster.addresses import Endpoints
from api.back.cluster.backoff import backoff_seconds
from api.back.cluster.controller import first_of
from api.back.cluster.kubernetes_api import (
    ENDPOINT_SLICES,
    FORBIDDEN,
    GONE,
    PODS,
    TOO_MANY,
    UNAUTHORIZED,
    KubernetesApi,
    KubernetesFault,
    Resource,
)

MAX_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 10.0  # a watch that lasted so long was no failure, however it ended
FIRST_SECONDS = 10.0  # for the first lists; they may come later
GRPC_PORT, METRICS_PORT = "grpc", "metrics"  # names of the ports of Triton's Service
OVER = ("Failed", "Succeeded")  # phases of a pod that never runs again; an evicted one has failed

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pod:
    name: str
    uid: str  # of this pod; the next one with its name has another
    endpoints: Endpoints | None  # None: no EndpointSlice has an address of it
    ready: bool  # as its readiness probe says
    started: bool  # all its containers run, and their startup probes have succeeded
    ending: bool  # it is being deleted or evicted, and ends what it has begun
    phase: str

    @property
    def state(self) -> str:
        """In words."""
        if self.ending:
            return f"pod {self.name} is ending"
        if self.endpoints is None:
            return (
                f"pod {self.name} is {self.phase}, and no EndpointSlice with its labels has an address and a "
                f"port {GRPC_PORT!r} of it"
            )
        return f"pod {self.name} is {self.phase}, and {'ready' if self.ready else 'not ready'}"


class Mirror:
    """The objects of one resource that have the labels of a selector, by name."""

    def __init__(
        self, api: KubernetesApi, resource: Resource, selector: str, changed: Callable[[], None]
    ) -> None:
        self.objects: dict[str, Any] = {}
        self.listed = asyncio.Event()
        self.refused = asyncio.Event()  # a right is missing
        self.fault: KubernetesFault | None = None  # why it may be out of date
        self._api = api
        self._resource = resource
        self._selector = selector
        self._changed = changed
        self._version: str | None = None  # that was seen last; None: it is to be listed anew

    async def run(self) -> None:
        """Keep it up to date until cancelled."""
        failures = 0
        while True:
            began, retry_after = time.monotonic(), 0.0
            try:
                await self._follow()
            except KubernetesFault as fault:
                retry_after = fault.retry_after
                self._note(fault)
            except Exception:
                logger.exception("%s could not be watched; trying again", self._resource.name)
                self._version = None
            failures = 0 if time.monotonic() - began > STEADY_SECONDS else failures + 1
            # The first retry comes at once: watches are cut now and then.
            await asyncio.sleep(max(retry_after, backoff_seconds(failures - 1, MAX_BACKOFF_SECONDS)))

    async def _follow(self) -> None:
        """List if necessary, and watch until the watch ends."""
        if self._version is None:
            found = await self._api.list(self._resource, self._selector)
            self.objects = {item["metadata"]["name"]: item for item in found["items"]}
            self._version = found["metadata"]["resourceVersion"]
            self.listed.set()
            self._changed()
        async with self._api.watch(self._resource, self._selector, self._version) as events:
            self._well()
            async for event in events:
                self._apply(event)

    def _apply(self, event: Mapping[str, Any]) -> None:
        metadata = event["object"]["metadata"]
        self._version = metadata["resourceVersion"]
        if event["type"] == "BOOKMARK":
            return
        if event["type"] == "DELETED":
            self.objects.pop(metadata["name"], None)
        else:
            self.objects[metadata["name"]] = event["object"]
        self._changed()

    def _note(self, fault: KubernetesFault) -> None:
        if fault.status not in (None, TOO_MANY):  # it may refuse our version, as after its own restore
            self._version = None
        if fault.status == GONE:  # it forgot what changed since our version
            return
        if self.fault is None or self.fault.detail != fault.detail:
            logger.warning("%s are as last seen: %s", self._resource.name, fault.detail)
        self.fault = fault
        if fault.status in (UNAUTHORIZED, FORBIDDEN):
            self.refused.set()

    def _well(self) -> None:
        if self.fault is not None:
            logger.info("%s are up to date again", self._resource.name)
        self.fault = None


class PodDirectory:
    def __init__(self, api: KubernetesApi, selector: str) -> None:
        self.pods: Mapping[str, Pod] = {}  # by name, without those that are over
        self.changed = asyncio.Event()  # set at the next change of `pods`
        self.selector = selector
        self._mirrors = [Mirror(api, each, selector, self._look) for each in (PODS, ENDPOINT_SLICES)]

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Within the block `pods` is kept up to date. Raises KubernetesFault where a right is missing.

        While the API server is away, the block begins without pods.
        """
        tasks = [asyncio.create_task(mirror.run()) for mirror in self._mirrors]
        try:
            for mirror in self._mirrors:
                await self._first(mirror)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _first(self, mirror: Mirror) -> None:
        await first_of(mirror.listed, mirror.refused, timeout=FIRST_SECONDS)
        if mirror.refused.is_set() and mirror.fault is not None:
            raise mirror.fault

    @property
    def fault(self) -> str | None:
        """Why `pods` may be out of date; None where they are as they should be."""
        return next((mirror.fault.detail for mirror in self._mirrors if mirror.fault is not None), None)

    def missing(self) -> str | None:
        """Why there is no pod to use, or why `pods` may be out of date, in words; None: all is well."""
        if self.fault is not None:
            return self.fault
        if any(pod.ready and not pod.ending for pod in self.pods.values()):
            return None
        states = "; ".join(pod.state for pod in self.pods.values())
        return states or f"no pod has the labels {self.selector}"

    async def until(self, condition: Callable[[], object]) -> None:
        """Return when `condition`, which looks at `pods`, holds."""
        while not condition():
            await self.changed.wait()

    def _look(self) -> None:
        if not all(mirror.listed.is_set() for mirror in self._mirrors):
            return
        pods, slices = (mirror.objects.values() for mirror in self._mirrors)
        found = {pod.name: pod for pod in read_pods(pods, slices)}
        if found != self.pods:
            self.pods = found
            changed, self.changed = self.changed, asyncio.Event()
            changed.set()


def read_pods(pods: Iterable[Mapping[str, Any]], slices: Iterable[Mapping[str, Any]]) -> Iterator[Pod]:
    """Of objects as the API has them, those that are not over."""
    places = _places(slices)
    for item in pods:
        metadata, status = item["metadata"], item.get("status", {})
        if (phase := status.get("phase", "Unknown")) in OVER:
            continue
        of_pod = places.get(metadata["uid"]) or places.get(metadata["name"])
        address, ports, ready = of_pod or (None, {}, False)
        containers = status.get("containerStatuses", [])
        yield Pod(
            name=metadata["name"],
            uid=metadata["uid"],
            endpoints=_endpoints(address, ports),
            ready=ready,
            started=bool(containers) and all(_started(each) for each in containers),
            ending="deletionTimestamp" in metadata,
            phase=phase,
        )


def _started(container: Mapping[str, Any]) -> bool:
    return bool(container.get("started")) and "running" in container.get("state", {})


def _places(slices: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, dict[str, int], bool]]:
    """By pod: its address, its ports by name, and whether it is ready. Several Services may name them.

    A pod goes by its uid: for a while a slice has the pod that had the same name before. Slices that were not
    made by Kubernetes may know only the name.
    """
    found: dict[str, tuple[str, dict[str, int], bool]] = {}
    for item in slices:
        ports = {port.get("name", ""): port["port"] for port in item.get("ports") or () if "port" in port}
        for endpoint in item.get("endpoints") or ():
            target = endpoint.get("targetRef", {})
            name = target.get("uid", target.get("name"))
            if name is None or not endpoint["addresses"]:
                continue
            # "ready" is also true where a Service publishes addresses that are not; none at all means ready:
            # https://kubernetes.io/docs/concepts/services-networking/endpoint-slices
            conditions = endpoint.get("conditions", {})
            ready = conditions.get("serving", conditions.get("ready")) is not False
            _, before, _ = found.get(name, ("", {}, False))
            found[name] = (endpoint["addresses"][0], {**before, **ports}, ready)
    return found


def _endpoints(address: str | None, ports: Mapping[str, int]) -> Endpoints | None:
    if address is None or (grpc := ports.get(GRPC_PORT)) is None:
        return None
    host = f"[{address}]" if ":" in address else address
    return Endpoints(f"{host}:{grpc}", None, f"{host}:{ports.get(METRICS_PORT, grpc + 1)}")
