"""Deployments as the manager holds them, without a server."""

from __future__ import annotations

from api.back.cluster.live import LiveDeployment
from api.back.store.records import DeploymentRecord, DeploymentState, VersionRecord, VersionState, now
from runtime.contract import Architecture, FileEntry, Kind, Manifest, Variant, VariantEntry

MIB = 1024**2
CARD = {"perplexity_change": 0.0, "top1_agreement": 1.0}


def manifest(
    kind: Kind = Kind.LM,
    variants: tuple[Variant, ...] = (Variant.FP32, Variant.INT8),
    labels: tuple[str, ...] = (),
) -> Manifest:
    card = CARD if kind is Kind.LM else {}
    return Manifest(
        name="tiny",
        kind=kind,
        architecture=Architecture(12, 12, 64, 768, 50257, 1024, 50256, 50256),
        tokenizer=FileEntry("tokenizer.json", 10, "0" * 64),
        variants={
            variant: VariantEntry((FileEntry("model.onnx", 100 * MIB, "0" * 64),), (), 0.1, card)
            for variant in variants
        },
        labels=labels,
    )


def version(number: int = 1, content: Manifest | None = None) -> VersionRecord:
    state = VersionState.READY if content else VersionState.UPLOADED
    return VersionRecord(
        "tiny", number, state, content.kind if content else None, "", {}, content, None, now()
    )


def live(
    model: str,
    number: int = 1,
    *,
    kind: Kind = Kind.LM,
    weight: int = 100,
    state: DeploymentState = DeploymentState.READY,
    labels: tuple[str, ...] = (),
) -> LiveDeployment:
    content = manifest(kind, labels=labels)
    record = DeploymentRecord(
        f"{model}-{number}", model, number, "auto", Variant.INT8, state, 1, weight, now()
    )
    return LiveDeployment(record, version(number, content), content)
