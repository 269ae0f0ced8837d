"""What a deployment becomes before anything is loaded: its variant, and whether there is room for it."""

from __future__ import annotations

import secrets

from api.back.cluster.resources import available_memory, needed_memory
from api.back.store.records import DeploymentRecord, DeploymentState, VersionRecord, VersionState, now
from api.errors import Conflict, InvalidInput
from runtime.contract import Manifest, Variant

AUTO = "auto"
PREFERRED = (Variant.INT8, Variant.FP32)  # on a CPU
MAX_WEIGHT = 100
NUM_SERVERS = 1  # this cluster's
MIB = 1024**2


def plan(version: VersionRecord, precision: str, replicas: int, traffic_weight: int) -> DeploymentRecord:
    """The record of a deployment that begins. Raises InvalidInput, Conflict."""
    check_replicas(replicas)
    check_traffic_weight(traffic_weight)
    return DeploymentRecord(
        id=f"dep-{secrets.token_hex(6)}",
        model=version.model,
        version=version.version,
        precision_asked=precision,
        variant=resolve_precision(require_manifest(version), precision),
        state=DeploymentState.LOADING,
        replicas=replicas,
        traffic_weight=traffic_weight,
        created=now(),
    )


def require_manifest(version: VersionRecord) -> Manifest:
    """Raises Conflict where the version is not ready."""
    if version.state is not VersionState.READY or version.manifest is None:
        raise Conflict(
            f"model {version.model!r} version {version.version} is {version.state.value}, not ready"
        )
    return version.manifest


def resolve_precision(manifest: Manifest, precision: str) -> Variant:
    """The variant that `precision` means here. Raises InvalidInput (`precision`)."""
    present = ", ".join(variant.value for variant in manifest.variants)
    if precision == AUTO:
        for variant in PREFERRED:
            if variant in manifest.variants:
                return variant
        raise InvalidInput.of("precision", f"auto needs int8 or fp32; this version has {present}")
    if precision == Variant.FP16.value:
        raise InvalidInput.of(
            "precision", "fp16 needs a GPU, and this server computes on the CPU: use int8 or fp32"
        )
    if precision not in Variant._value2member_map_:
        raise InvalidInput.of("precision", f"{precision!r} is not one of auto, fp32, fp16, int8")
    if Variant(precision) not in manifest.variants:
        raise InvalidInput.of("precision", f"{precision}: this version has {present}")
    return Variant(precision)


def check_replicas(replicas: int) -> None:
    """Raises InvalidInput."""
    if not 1 <= replicas <= NUM_SERVERS:
        raise InvalidInput.of(
            "replicas", f"{replicas}, but this cluster has {NUM_SERVERS} server: 1 is possible"
        )


def check_traffic_weight(weight: int) -> None:
    """Raises InvalidInput."""
    if not 0 <= weight <= MAX_WEIGHT:
        raise InvalidInput.of("traffic_weight", f"{weight} is not within 0..{MAX_WEIGHT}")


def check_memory(manifest: Manifest, variant: Variant, num_slots: int) -> None:
    """Raises Conflict with both figures."""
    needed, available = needed_memory(manifest, variant, num_slots), available_memory()
    if needed > available:
        raise Conflict(
            f"{needed // MIB} MiB of memory are needed for {variant.value} with {num_slots} slots, "
            f"{available // MIB} MiB are free: undeploy another model, or lower LMAAS_NUM_SLOTS"
        )
