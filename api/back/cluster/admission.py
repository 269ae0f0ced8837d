"""Whether a deployment may begin: its version, its replicas and weight, and the memory of its servers."""

from __future__ import annotations

import dataclasses
import secrets
from collections import Counter
from collections.abc import Sequence

from api.back.cluster.driver import Capabilities
from api.back.cluster.precision import explain, resolve_precision
from api.back.cluster.quality_gate import QualityGate
from api.back.cluster.resources import needed_gpu_memory, needed_memory
from api.back.store.records import DeploymentRecord, DeploymentState, VersionRecord, VersionState, now
from api.errors import Conflict, InvalidInput
from runtime.config import EngineSettings
from runtime.contract import Device, Variant
from runtime.manifest import Manifest

MAX_WEIGHT = 100
MIB = 1024**2


def plan(
    version: VersionRecord,
    precision: str,
    replicas: int,
    traffic_weight: int,
    *,
    gate: QualityGate,
    device: Device = Device.CPU,
    force: bool = False,
) -> DeploymentRecord:
    """The record of a new deployment on `device`; `force` deploys a variant that fails the quality gate.

    Raises InvalidInput, Conflict.
    """
    check_traffic_weight(traffic_weight)
    manifest = require_manifest(version)
    record = DeploymentRecord(
        id=f"dep-{secrets.token_hex(6)}",
        model=version.model,
        version=version.version,
        precision_asked=precision,
        variant=resolve_precision(manifest, precision, gate, device, force=force),
        state=DeploymentState.LOADING,
        replicas=replicas,
        traffic_weight=traffic_weight,
        created=now(),
    )
    return dataclasses.replace(record, note=explain(manifest, record, gate, device))


def require_manifest(version: VersionRecord) -> Manifest:
    """Raises Conflict where the version is not ready."""
    if version.state is not VersionState.READY or version.manifest is None:
        raise Conflict(
            f"model {version.model!r} version {version.version} is {version.state.value}, not ready"
        )
    return version.manifest


def check_replicas(replicas: int, num_servers: int, *, more_may_come: bool = False) -> None:
    """A server holds a version once. Raises InvalidInput."""
    if more_may_come and replicas >= 1:
        return
    if not 1 <= replicas <= num_servers:
        servers = "1 server: 1 is" if num_servers == 1 else f"{num_servers} servers: 1 to {num_servers} are"
        raise InvalidInput.of("replicas", f"{replicas}, but this cluster has {servers} possible")


def check_traffic_weight(weight: int) -> None:
    """Raises InvalidInput."""
    if not 0 <= weight <= MAX_WEIGHT:
        raise InvalidInput.of("traffic_weight", f"{weight} is not within 0..{MAX_WEIGHT}")


def memory_on(server: Capabilities, manifest: Manifest, variant: Variant, engine: EngineSettings) -> int:
    """The most that a replica needs there, in bytes: of the GPU where the server computes on one."""
    slots = engine.num_slots
    if server.device is Device.CUDA:
        return needed_gpu_memory(manifest, variant, slots, has_plans=bool(engine.plans))
    return needed_memory(manifest, variant, slots, engine.max_kv_tokens, has_kernels=server.has_kernels)


def check_memory(
    manifest: Manifest, variant: Variant, engine: EngineSettings, servers: Sequence[Capabilities]
) -> None:
    """Whether one new replica fits on each of `servers`. Servers of one machine share its memory.

    Raises Conflict with both figures. Unknown memory is not checked: the server itself reports a lack of it.
    """
    replicas = Counter(server.machine for server in servers)
    for server in {server.machine: server for server in servers}.values():
        each = memory_on(server, manifest, variant, engine)
        if server.device is Device.CUDA:
            what, remedy = "GPU memory", "LMAAS_NUM_SLOTS"
        else:
            what, remedy = "memory", "LMAAS_NUM_SLOTS or LMAAS_MAX_KV_TOKENS"
        count, free = replicas[server.machine], server.free_memory
        if free is not None and count * each > free:
            of = variant.value if count == 1 else f"{count} replicas of {variant.value}"
            raise Conflict(
                f"{count * each // MIB} MiB of {what} are needed for {of} with {engine.num_slots} slots, "
                f"{free // MIB} MiB are free: undeploy another model, or lower {remedy}"
            )
