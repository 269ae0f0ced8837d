"""What the cluster reports about itself: its servers, and whether its deployments answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

from api.back.cluster.deployment import Deployment
from api.back.cluster.records import Readiness, ServerRecord, ServerState
from api.back.cluster.replica import Replica
from api.back.cluster.supervisor import Supervisor
from api.back.settings import BackSettings
from api.back.store.records import DeploymentState, now

NO_SERVER = "there is no model server"
LATE_PROBES = 3  # a replica counts as well while one of this many probes was good


def server_record(server: Supervisor, replicas: Sequence[Replica]) -> ServerRecord:
    """`replicas` are those on this server."""
    endpoints = server.driver.endpoints
    answers = [replica.last_good for replica in replicas if replica.last_good is not None]
    age = timedelta(seconds=time.monotonic() - max(answers)) if answers else None
    return ServerRecord(
        name=server.name,
        state=_state(server, replicas),
        pid=server.driver.pid if server.up else None,
        kernels=server.driver.kernels,
        grpc_address=endpoints.grpc,
        http_address=endpoints.http,
        metrics_address=endpoints.metrics,
        outstanding=sum(replica.in_flight for replica in replicas),
        sessions=server.client.num_sessions if server.up else 0,
        models=[replica.name for replica in replicas],
        restarts=server.restarts,
        backoff=server.backoff,
        error=server.error,
        last_probe=now() - age if age is not None else None,
    )


def _state(server: Supervisor, replicas: Sequence[Replica]) -> ServerState:
    """Of a server that runs, what an operator wished comes before what its replicas do."""
    if server.state is not ServerState.READY:
        return server.state
    if server.draining:
        return ServerState.DRAINING
    ill = (DeploymentState.UNHEALTHY, DeploymentState.FAILED)
    return ServerState.DEGRADED if any(item.state in ill for item in replicas) else ServerState.READY


def readiness(
    deployments: Sequence[Deployment],
    servers: Sequence[Supervisor],
    settings: BackSettings,
    missing: str | None = None,
) -> Readiness:
    """A deployment is ready while one replica answers; replicas and servers that are away are warnings.

    `missing` says why there may be too few servers.
    """
    allowed = LATE_PROBES * (settings.probe_interval_seconds + settings.probe_timeout_seconds)
    moment = time.monotonic()
    reasons: list[str] = []
    warnings: list[str] = [] if missing is None else [missing]
    down = [_down(server) for server in servers if not server.up] or ([] if servers else [NO_SERVER])
    (reasons if len(down) >= len(servers) else warnings).extend(down)
    expected = [item for item in deployments if _is_expected(item)]
    unready = 0
    for deployment in expected:
        faults = {replica: _fault(replica, moment - allowed, allowed) for replica in deployment.replicas}
        found = [f"{_place(replica)} {fault}" for replica, fault in faults.items() if fault is not None]
        if deployment.state is not DeploymentState.READY or len(found) == len(faults):
            unready += 1
            reasons.append(_unready(deployment, [fault for fault in faults.values() if fault is not None]))
        else:
            warnings.extend(found)
            warnings.extend(_missing(deployment))
    probes = {
        item.record.id: None if item.last_good is None else moment - item.last_good for item in deployments
    }
    tried = all(deployment.tried for deployment in expected)
    enough = tried and unready < len(expected) and all(server.driver.shared for server in servers)
    return Readiness(not reasons, reasons, probes, warnings, enough)


def _is_expected(deployment: Deployment) -> bool:
    """It has to answer: it did once, it has replicas and is not just getting the first one, and it stays."""
    here = deployment.state is not DeploymentState.UNLOADING
    return here and deployment.expected and deployment.record.replicas > 0


def _down(server: Supervisor) -> str:
    return f"{server.name} is {server.state.value}" + (f": {server.error}" if server.error else "")


def _unready(deployment: Deployment, faults: Sequence[str]) -> str:
    where = f"{deployment.name} ({deployment.record.id})"
    return f"{where} {'; '.join(dict.fromkeys(faults)) or 'waits for a server'}"


def _fault(replica: Replica, since: float, allowed: float) -> str | None:
    """What is wrong with a replica; None where it answers."""
    if not replica.ready:
        return f"is {replica.state.value}" + (f": {replica.error}" if replica.error else "")
    if not replica.answered_since(since):
        return f"answered no probe for {allowed:g} s"
    return None


def _place(replica: Replica) -> str:
    return f"{replica.name} on {replica.server.name}"


def _missing(deployment: Deployment) -> list[str]:
    """Fewer servers than replicas: the cluster became smaller since the deployment was made."""
    wanted, there = deployment.record.replicas, len(deployment.replicas)
    return (
        [f"{deployment.name} has {there} of {wanted} replicas: servers are missing"] if there < wanted else []
    )
