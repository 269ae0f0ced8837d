"""The loop that watches the traffic of every deployment, and scales those that ask for it.

`api/back/cluster/autoscaler.py` decides. Here stands what it is given, and what is done with its decision: a
deployment gets and loses replicas, as far as servers, cores and memory allow. Where it has no bounds, the
decision is only reported: another autoscaler may act on the metrics, as in Kubernetes.

Where façades share their Tritons, each sees its own requests alone. It decides as if each of the others had
as many, for which a load balancer provides. So all of them decide alike.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from weakref import WeakKeyDictionary

from api.back.cluster.autoscaler import (
    Autoscaler,
    CapacityEstimate,
    Observation,
    ScalingDecision,
    ScalingPolicy,
)
from api.back.cluster.backoff import backoff_seconds
from api.back.cluster.deployment import Deployment
from api.back.cluster.local_triton import LocalTriton
from api.back.cluster.records import CapacityRecord
from api.back.cluster.supervisor import Supervisor
from api.back.settings import BackSettings
from api.back.store.records import Autoscale, Capacity, DeploymentState
from api.errors import ApiError
from kernels.processors import usable_cores
from runtime.contract import Device, Kind

DECISION_SECONDS = 5.0
WAKE_SECONDS = 1.0  # within which a deployment without replicas notices a request
MAX_RETRY_SECONDS = 60.0  # until a change that failed is tried again; at first it is 1 s, then 2 s, 4 s ...
HEAD_PLACES = 2  # one request runs, and one waits, so that a trained head is never idle

logger = logging.getLogger(__name__)
Scale = Callable[[Deployment, int], Awaitable[None]]


class ScalingLoop:
    """Belongs to one event loop."""

    def __init__(
        self,
        settings: BackSettings,
        servers: Sequence[Supervisor],
        deployments: Callable[[], Collection[Deployment]],
        scale: Scale,
    ) -> None:
        """`scale` gives a deployment that number of replicas."""
        self._settings = settings
        self._servers = servers
        self._deployments = deployments
        self._scale = scale
        self.facades = 1  # that live, and use the same Tritons elsewhere
        self._watched: WeakKeyDictionary[Deployment, _Watched] = WeakKeyDictionary()
        self._changes: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        tasks = [*self._changes, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def records(self) -> list[CapacityRecord]:
        """What every deployment is asked for, and what it has for that; as of the latest decisions."""
        deployments = self._deployments()
        return [self._watch(deployment).record(self._most(deployment)) for deployment in deployments]

    async def _run(self) -> None:
        due = 0.0
        while True:
            now = time.monotonic()
            for deployment in list(self._deployments()):
                self._look_at(deployment, now, due)
            due = now + DECISION_SECONDS if now >= due else due
            await asyncio.sleep(WAKE_SECONDS)

    def _look_at(self, deployment: Deployment, now: float, due: float) -> None:
        try:
            watched = self._watch(deployment)
            if now >= due or (watched.is_woken and not watched.changing):
                self._act(watched, now)
        except Exception:  # one deployment must not keep the others from being watched
            logger.exception("%s cannot be watched", deployment.name)

    def _act(self, watched: _Watched, now: float) -> None:
        deployment = watched.deployment
        woken = watched.is_woken
        decision = watched.decide(now, self._policy(deployment))
        wanted = max(decision.replicas, int(woken))
        if deployment.record.autoscale is None or wanted == deployment.record.replicas:
            return
        if deployment.state is DeploymentState.UNLOADING or now < watched.not_before or watched.changing:
            return
        if deployment.idle:
            return
        reason = decision.reason if wanted == decision.replicas else "a request came"
        logger.info("%s: %d replicas instead of %d: %s", deployment.name, wanted, deployment.record.replicas,
                    reason)  # fmt: skip
        watched.changing = True
        if not wanted:
            watched.sleeps()
        change = asyncio.create_task(self._change(watched, wanted))
        self._changes.add(change)
        change.add_done_callback(self._changes.discard)

    async def _change(self, watched: _Watched, replicas: int) -> None:
        try:
            await self._scale(watched.deployment, replicas)
            watched.succeeded()
        except ApiError as error:
            watched.failed(error.detail)
            logger.warning("%s cannot have %d replicas: %s", watched.deployment.name, replicas, error.detail)
        except Exception:
            watched.failed("a defect of the server; its log says more")
            logger.exception("%s cannot have %d replicas", watched.deployment.name, replicas)
        finally:
            watched.changing = False

    def _watch(self, deployment: Deployment) -> _Watched:
        if deployment not in self._watched:
            is_lm = deployment.manifest.kind is Kind.LM
            places = self._settings.engine.num_slots if is_lm else HEAD_PLACES
            self._watched[deployment] = _Watched(deployment, places, self._policy(deployment))
        watched = self._watched[deployment]
        watched.facades = self.facades if any(server.driver.shared for server in self._servers) else 1
        return watched

    def _policy(self, deployment: Deployment) -> ScalingPolicy:
        asked = deployment.record.autoscale or Autoscale(1, len(self._servers))
        seconds = self._settings.autoscale_stabilisation_seconds
        most = min(asked.max, self._most(deployment))
        return ScalingPolicy(min(asked.min, most), most, asked.target_utilisation, seconds)

    def _most(self, deployment: Deployment) -> int:
        """Replicas that its servers and their cores hold; more local ones than cores would share them."""
        local = sum(isinstance(server.driver, LocalTriton) for server in self._servers)
        if self._settings.engine.device is Device.CPU:
            room = max(1, usable_cores() // self._settings.threads)
            return len(self._servers) - local + min(local, room)
        return len(self._servers)


class _Watched:
    """A deployment, and what was seen of it."""

    def __init__(self, deployment: Deployment, places: int, policy: ScalingPolicy) -> None:
        self.deployment = deployment
        self.facades = 1  # that share its servers
        self.changing = False
        self.problem: str | None = None  # why the latest change was not possible
        self.not_before = 0.0  # the next change, on the monotonic clock
        self._failures = 0  # of changes, in a row
        self._capacity = deployment.record.capacity
        self._scaler = Autoscaler(policy, _estimate(places, self._capacity))
        traffic = deployment.traffic
        self._arrivals, self._finished, self._missed = traffic.arrivals, traffic.finished, traffic.missed
        self._decision: ScalingDecision | None = None

    @property
    def is_woken(self) -> bool:
        """A request came since it began to give up its last replica, maybe while that was unloaded."""
        deployment = self.deployment
        return deployment.state is DeploymentState.IDLE and deployment.traffic.missed > self._missed

    def sleeps(self) -> None:
        """From now on a request wakes it."""
        self._missed = self.deployment.traffic.missed

    def succeeded(self) -> None:
        self.problem, self._failures = None, 0

    def failed(self, problem: str) -> None:
        self.problem = problem
        self._failures += 1
        self.not_before = time.monotonic() + backoff_seconds(self._failures, MAX_RETRY_SECONDS)

    def decide(self, now: float, policy: ScalingPolicy) -> ScalingDecision:
        if self.deployment.record.capacity != self._capacity:  # measured anew
            self._capacity = self.deployment.record.capacity
            self._scaler.estimate = _estimate(self._scaler.estimate.places, self._capacity)
        self._scaler.policy = policy
        traffic, replicas = self.deployment.traffic, self.deployment.replicas
        seen = Observation(
            now,
            sum(replica.ready for replica in replicas),
            self.facades * (traffic.arrivals - self._arrivals),
            self.facades * (traffic.finished - self._finished),
            self.facades * sum(replica.in_flight for replica in replicas),
        )
        self._arrivals, self._finished = traffic.arrivals, traffic.finished
        self._decision = self._scaler.decide(seen, self.deployment.record.replicas)
        return self._decision

    def record(self, most: int) -> CapacityRecord:
        record = self.deployment.record
        decision = self._decision
        if decision is None or record.capacity != self._capacity:  # it was measured since then
            decision = self.decide(time.monotonic(), self._scaler.policy)
        ready = sum(replica.ready for replica in self.deployment.replicas)
        asked = record.replicas if record.autoscale is None else record.autoscale.min
        wanted = max(decision.wanted, asked)
        reason = decision.reason
        reason += f"; {asked} are asked for" if asked > decision.wanted else ""
        if self.deployment.idle:
            wanted, reason = 0, "nothing asks for it: the next request loads it again"
        reason += f"; the latest change failed: {self.problem}" if self.problem else ""
        return CapacityRecord(
            deployment_id=record.id,
            model=record.model,
            version=record.version,
            replicas=ready,
            wanted=wanted,
            possible=most,
            missing=max(0, wanted - ready),
            arrival_rate=decision.arrival_rate,
            waiting=decision.waiting,
            capacity=decision.capacity,
            basis=decision.basis,
            utilisation=decision.utilisation,
            target_utilisation=self._scaler.policy.utilisation,
            autoscale=record.autoscale,
            reason=reason,
        )


def _estimate(places: int, measured: Capacity | None) -> CapacityEstimate:
    if measured is None:
        return CapacityEstimate(places)
    each = measured.requests_per_second / (measured.replicas or 1)
    return CapacityEstimate(places, each, f"measured {measured.measured_at} by {measured.command}")
