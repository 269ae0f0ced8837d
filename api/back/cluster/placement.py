"""What a deployment becomes before anything is loaded: its variant, and whether there is room for it."""

from __future__ import annotations

import secrets

from api.back.cluster.budget import QualityBudget
from api.back.cluster.resources import (
    available_gpu_memory,
    available_memory,
    needed_gpu_memory,
    needed_memory,
)
from api.back.store.records import DeploymentRecord, DeploymentState, VersionRecord, VersionState, now
from api.errors import Conflict, InvalidInput
from runtime.contract import Device, Manifest, Variant

AUTO = "auto"
# Quickest first, as measured in perf/LOG.md.
PREFERRED = {Device.CPU: (Variant.INT8, Variant.FP32), Device.CUDA: (Variant.FP16,)}
_EIGHT_BITS = "ONNX Runtime multiplies whole numbers on CPUs only, and this server computes on a GPU"
UNFIT = {
    (Device.CPU, Variant.FP16): "fp16 needs a GPU, and this server computes on the CPU: use int8 or fp32",
    # GroupQueryAttention of the CUDA provider: float16 and bfloat16 (onnxruntime's docs/OperatorKernels.md).
    (Device.CUDA, Variant.FP32): "fp32: ONNX Runtime's attention runs in fp16 alone on a GPU: use fp16",
    (Device.CUDA, Variant.INT8): f"int8: {_EIGHT_BITS}: use fp16",
    (Device.CUDA, Variant.INT4): f"int4: {_EIGHT_BITS}: use fp16",
}
MAX_WEIGHT = 100
NUM_SERVERS = 1  # this cluster's
MIB = 1024**2


def plan(
    version: VersionRecord,
    precision: str,
    replicas: int,
    traffic_weight: int,
    *,
    budget: QualityBudget,
    device: Device = Device.CPU,
    force: bool = False,
) -> DeploymentRecord:
    """The record of a deployment on `device` that begins; `force` deploys beyond the quality budget.

    Raises InvalidInput, Conflict.
    """
    check_replicas(replicas)
    check_traffic_weight(traffic_weight)
    return DeploymentRecord(
        id=f"dep-{secrets.token_hex(6)}",
        model=version.model,
        version=version.version,
        precision_asked=precision,
        variant=resolve_precision(require_manifest(version), precision, budget, device, force=force),
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


def resolve_precision(
    manifest: Manifest, precision: str, budget: QualityBudget, device: Device, *, force: bool = False
) -> Variant:
    """The variant that `precision` means here; `auto` is the quickest within the budget.

    Raises InvalidInput (`precision`), or Conflict with the figures where the budget does not allow it.
    """
    present = ", ".join(variant.value for variant in manifest.variants)
    if precision == AUTO:
        usable = [variant for variant in PREFERRED[device] if variant in manifest.variants]
        if not usable:
            needed = " or ".join(variant.value for variant in PREFERRED[device])
            raise InvalidInput.of("precision", f"auto needs {needed} here; this version has {present}")
        within = [variant for variant in usable if force or not budget.excess(manifest, variant)]
        return within[0] if within else _require_quality(manifest, usable[0], budget)
    if precision not in Variant._value2member_map_:
        choices = ", ".join((AUTO, *(variant.value for variant in Variant)))
        raise InvalidInput.of("precision", f"{precision!r} is not one of {choices}")
    variant = Variant(precision)
    if (device, variant) in UNFIT:
        raise InvalidInput.of("precision", UNFIT[device, variant])
    if variant not in manifest.variants:
        raise InvalidInput.of("precision", f"{precision}: this version has {present}")
    return variant if force else _require_quality(manifest, variant, budget)


def _require_quality(manifest: Manifest, variant: Variant, budget: QualityBudget) -> Variant:
    if excess := budget.excess(manifest, variant):
        raise Conflict(
            f"{variant.value} is over the quality budget: {'; '.join(excess)}. "
            f"{'Deploy' if Variant.FP32 in manifest.variants else 'Export and deploy'} fp32, "
            'or this all the same with "force": true'
        )
    return variant


def explain(
    manifest: Manifest, record: DeploymentRecord, budget: QualityBudget, device: Device = Device.CPU
) -> str | None:
    """What a caller should know about the variant that answers: passed-over ones, or a budget overrun."""
    if excess := budget.excess(manifest, record.variant):
        return f"{record.variant.value} is over the quality budget: {'; '.join(excess)}"
    if record.precision_asked != AUTO:
        return None
    preferred = PREFERRED[device]
    quicker = preferred[: preferred.index(record.variant)] if record.variant in preferred else ()
    return next(
        (
            f"{variant.value} is quicker, but over the quality budget: {'; '.join(excess)}"
            for variant in quicker
            if variant in manifest.variants and (excess := budget.excess(manifest, variant))
        ),
        None,
    )


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


def check_memory(
    manifest: Manifest, variant: Variant, num_slots: int, max_kv_tokens: int, device: Device = Device.CPU
) -> None:
    """Raises Conflict with both figures. A GPU that cannot be asked is left to say itself that it is full."""
    if device is Device.CUDA:
        needed, free = needed_gpu_memory(manifest, variant, num_slots), available_gpu_memory()
        what, remedy = "GPU memory", "LMAAS_NUM_SLOTS"
    else:
        needed, free = needed_memory(manifest, variant, num_slots, max_kv_tokens), available_memory()
        what, remedy = "memory", "LMAAS_NUM_SLOTS or LMAAS_MAX_KV_TOKENS"
    if free is not None and needed > free:
        raise Conflict(
            f"{needed // MIB} MiB of {what} are needed for {variant.value} with {num_slots} slots, "
            f"{free // MIB} MiB are free: undeploy another model, or lower {remedy}"
        )
