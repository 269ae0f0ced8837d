"""Which variant of a version a deployment serves: by its device, and by the quality gate."""

from __future__ import annotations

from api.back.cluster.quality_gate import QualityGate
from api.back.store.records import DeploymentRecord
from api.errors import Conflict, InvalidInput
from runtime.contract import Device, Variant
from runtime.manifest import Manifest

AUTO = "auto"
# Quickest first, as measured in the performance log. int4 is so for one row, and without VNNI for all.
PREFERRED = {Device.CPU: (Variant.INT4, Variant.INT8, Variant.FP32), Device.CUDA: (Variant.FP16,)}
_EIGHT_BITS = "ONNX Runtime multiplies whole numbers on CPUs only, and this server computes on a GPU"
UNFIT = {
    (Device.CPU, Variant.FP16): "fp16 needs a GPU, and this server computes on the CPU: use int8 or fp32",
    # GroupQueryAttention of the CUDA provider: float16 and bfloat16 (onnxruntime's docs/OperatorKernels.md).
    (Device.CUDA, Variant.FP32): "fp32: ONNX Runtime's attention runs in fp16 alone on a GPU: use fp16",
    (Device.CUDA, Variant.INT8): f"int8: {_EIGHT_BITS}: use fp16",
    (Device.CUDA, Variant.INT4): f"int4: {_EIGHT_BITS}: use fp16",
}


def resolve_precision(
    manifest: Manifest, precision: str, gate: QualityGate, device: Device, *, force: bool = False
) -> Variant:
    """The variant that `precision` means here; `auto` is the quickest that passes the quality gate.

    Raises InvalidInput (`precision`), or Conflict with the figures where the gate does not allow it.
    """
    present = ", ".join(variant.value for variant in manifest.variants)
    if precision == AUTO:
        usable = [variant for variant in PREFERRED[device] if variant in manifest.variants]
        if not usable:
            needed = " or ".join(variant.value for variant in PREFERRED[device])
            raise InvalidInput.of("precision", f"auto needs {needed} here; this version has {present}")
        within = [variant for variant in usable if force or not gate.excess(manifest, variant)]
        return within[0] if within else _require_quality(manifest, usable[0], gate)
    if precision not in Variant._value2member_map_:
        choices = ", ".join((AUTO, *(variant.value for variant in Variant)))
        raise InvalidInput.of("precision", f"{precision!r} is not one of {choices}")
    variant = Variant(precision)
    if (device, variant) in UNFIT:
        raise InvalidInput.of("precision", UNFIT[device, variant])
    if variant not in manifest.variants:
        raise InvalidInput.of("precision", f"{precision}: this version has {present}")
    return variant if force else _require_quality(manifest, variant, gate)


def _require_quality(manifest: Manifest, variant: Variant, gate: QualityGate) -> Variant:
    if excess := gate.excess(manifest, variant):
        raise Conflict(
            f"{variant.value} is over the quality budget: {'; '.join(excess)}. "
            f"{'Deploy' if Variant.FP32 in manifest.variants else 'Export and deploy'} fp32, "
            'or this all the same with "force": true'
        )
    return variant


def explain(
    manifest: Manifest, record: DeploymentRecord, gate: QualityGate, device: Device = Device.CPU
) -> str | None:
    """Why this variant serves: a quicker one does not pass the gate, or this one does not and was forced."""
    if excess := gate.excess(manifest, record.variant):
        return f"{record.variant.value} is over the quality budget: {'; '.join(excess)}"
    if record.precision_asked != AUTO:
        return None
    preferred = PREFERRED[device]
    quicker = preferred[: preferred.index(record.variant)] if record.variant in preferred else ()
    return next(
        (
            f"{variant.value} is quicker, but over the quality budget: {'; '.join(excess)}"
            for variant in quicker
            if variant in manifest.variants and (excess := gate.excess(manifest, variant))
        ),
        None,
    )
