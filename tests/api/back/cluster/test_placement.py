"""What a deployment becomes before anything is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from api.back.cluster import placement, resources
from api.back.cluster.budget import QualityBudget
from api.back.cluster.resources import available_gpu_memory, available_memory, needed_memory
from api.back.store.records import DeploymentRecord
from api.errors import Conflict, InvalidInput
from runtime.contract import Device, Kind, Manifest, Variant
from tests.api.back.cluster.live_deployments import MIB, manifest, version

BUDGET = QualityBudget()
EVERY = tuple(Variant)
GOOD = {"perplexity_change": 0.004, "top1_agreement": 0.98, "mean_kl": 0.5}
POOR = {"perplexity_change": 0.004, "top1_agreement": 0.92}


def with_cards(**cards: dict[str, float] | None) -> Manifest:
    """All variants; those that are not named have a good card."""
    plain = manifest(variants=EVERY)
    entries = {
        variant: dataclasses.replace(entry, quality=cards.get(variant.value, GOOD))
        for variant, entry in plain.variants.items()
    }
    return dataclasses.replace(plain, variants=entries)


def planned(content: Manifest, precision: str, *, force: bool = False) -> DeploymentRecord:
    return placement.plan(version(1, content), precision, 1, 100, budget=BUDGET, force=force)


@pytest.mark.parametrize(
    ("variants", "device", "precision", "variant"),
    [
        ((Variant.FP32, Variant.INT8), Device.CPU, "auto", Variant.INT8),
        ((Variant.FP32, Variant.FP16), Device.CPU, "auto", Variant.FP32),
        ((Variant.FP32, Variant.INT4), Device.CPU, "auto", Variant.FP32),
        ((Variant.FP32, Variant.INT8), Device.CPU, "fp32", Variant.FP32),
        (EVERY, Device.CPU, "int4", Variant.INT4),
        (EVERY, Device.CUDA, "auto", Variant.FP16),
        ((Variant.FP32, Variant.FP16), Device.CUDA, "auto", Variant.FP16),
        (EVERY, Device.CUDA, "fp16", Variant.FP16),
    ],
)
def test_a_precision_names_a_variant(
    variants: tuple[Variant, ...], device: Device, precision: str, variant: Variant
) -> None:
    content = manifest(variants=variants)
    assert placement.resolve_precision(content, precision, BUDGET, device) is variant


@pytest.mark.parametrize(
    ("variants", "device", "precision", "text"),
    [
        ((Variant.FP16,), Device.CPU, "auto", "auto needs int8 or fp32 here; this version has fp16"),
        ((Variant.INT8,), Device.CUDA, "auto", "auto needs fp16 here; this version has int8"),
        (EVERY, Device.CUDA, "fp32", "runs in fp16 alone on a GPU: use fp16"),
        (EVERY, Device.CPU, "fp16", "needs a GPU"),
        (EVERY, Device.CUDA, "int8", "multiplies whole numbers on CPUs only.*: use fp16"),
        (EVERY, Device.CUDA, "int4", "int4: .* computes on a GPU"),
        ((Variant.FP32,), Device.CPU, "int8", "int8: this version has fp32"),
        ((Variant.FP32,), Device.CPU, "int3", "'int3' is not one of auto, fp32, fp16, int8, int4"),
    ],
)
def test_a_precision_that_cannot_be_is_refused(
    variants: tuple[Variant, ...], device: Device, precision: str, text: str
) -> None:
    content = manifest(variants=variants)
    for force in (False, True):
        with pytest.raises(InvalidInput, match=text) as caught:
            placement.resolve_precision(content, precision, BUDGET, device, force=force)
        assert caught.value.errors[0].field == "precision"


@pytest.mark.parametrize(
    ("card", "figures"),
    [
        (POOR, r"top1_agreement 0\.92, at least 0\.97"),
        ({"perplexity_change": 0.0051}, r"perplexity_change 0\.0051, at most 0\.005"),
        ({"perplexity_change": float("nan")}, r"perplexity_change nan, at most 0\.005"),
        (GOOD | {"label_agreement": 0.98}, r"label_agreement 0\.98, at least 0\.99"),
        (GOOD | {"label_agreement": 1.0, "slot_agreement": 0.5}, r"slot_agreement 0\.5, at least 0\.99"),
        ({}, "perplexity_change is not in its quality card; top1_agreement is not in"),
        (POOR | {"perplexity_change": 1.0}, r"perplexity_change 1, at most 0\.005; top1_agreement"),
        (None, "no quality card"),
    ],
)
def test_a_variant_over_the_budget_is_refused_with_its_figures(
    card: dict[str, float] | None, figures: str
) -> None:
    content = with_cards(int8=card)
    with pytest.raises(Conflict, match=rf'int8 is over the quality budget: .*{figures}.*"force": true'):
        planned(content, "int8")
    assert planned(content, "int8", force=True).variant is Variant.INT8


@pytest.mark.parametrize("change", [0.004, -0.5, 0.005])
def test_a_variant_within_the_budget_is_deployed(change: float) -> None:
    card = GOOD | {"perplexity_change": change}
    assert planned(with_cards(int8=card), "int8").variant is Variant.INT8


@pytest.mark.parametrize(
    ("kind", "problem_type", "needed"),
    [
        (Kind.CLASSIFIER, "single_label_classification", ["label_agreement"]),
        (Kind.CLASSIFIER, "multi_label_classification", ["label_agreement"]),
        (Kind.CLASSIFIER, "regression", []),
        (Kind.NLU, "single_label_classification", ["label_agreement", "slot_agreement"]),
    ],
)
def test_a_card_needs_the_figures_of_its_kind(kind: Kind, problem_type: str, needed: list[str]) -> None:
    content = dataclasses.replace(manifest(kind, labels=("a",)), problem_type=problem_type)
    assert BUDGET.excess(content, Variant.INT8) == [f"{name} is not in its quality card" for name in needed]


def test_auto_passes_over_what_is_over_the_budget_and_says_so() -> None:
    content = with_cards(int8=POOR, fp32=None)
    record = planned(content, "auto")
    assert record.variant is Variant.FP32
    note = placement.explain(content, record, BUDGET)
    assert note == "int8 is quicker, but over the quality budget: top1_agreement 0.92, at least 0.97"
    assert planned(content, "auto", force=True).variant is Variant.INT8


def test_auto_refuses_where_nothing_is_within_the_budget() -> None:
    content = with_cards(int8=POOR)
    only = dataclasses.replace(content, variants={Variant.INT8: content.variants[Variant.INT8]})
    with pytest.raises(Conflict, match="int8 is over the quality budget"):
        planned(only, "auto")


def test_a_note_tells_what_was_forced_and_nothing_else() -> None:
    content = with_cards(int8=POOR)
    forced = planned(content, "int8", force=True)
    note = placement.explain(content, forced, BUDGET)
    assert note == "int8 is over the quality budget: top1_agreement 0.92, at least 0.97"
    assert placement.explain(content, planned(content, "fp32"), BUDGET) is None
    assert placement.explain(content, planned(content, "int4"), BUDGET) is None
    good = with_cards()
    assert placement.explain(good, planned(good, "auto"), BUDGET) is None


def test_a_version_that_is_not_ready_is_refused() -> None:
    with pytest.raises(Conflict, match="uploaded, not ready"):
        placement.plan(version(), "auto", 1, 100, budget=BUDGET)


@pytest.mark.parametrize("missing", [None, "the processor lacks something"])
def test_the_need_counts_weights_twice_and_the_cache(
    missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "missing", lambda: missing)
    values = 2 * 12 * 12 * 1024  # of a slot: heads' keys and values
    slot = values * (64 * 4 if missing else 64 + 4)
    classifier = needed_memory(manifest(Kind.CLASSIFIER), Variant.INT8, 32)
    assert classifier == 350 * MIB
    assert needed_memory(manifest(), Variant.INT8, 32) == classifier + 32 * slot
    bounded = needed_memory(manifest(), Variant.INT8, 32, max_kv_tokens=4 * 1024)
    assert bounded == classifier + 4 * slot
    assert needed_memory(manifest(), Variant.INT8, 2, max_kv_tokens=4 * 1024) < bounded
    half = needed_memory(manifest(variants=(Variant.FP16,)), Variant.FP16, 32)
    assert half == classifier + 32 * values * 64 * 2
    assert available_memory() > 0


def with_nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the driver's; `script` is its shell."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_a_gpus_memory_is_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    with_nvidia_smi(tmp_path, '[ "$1" = --id=3 ] && echo 2048', monkeypatch)
    assert available_gpu_memory() == 2048 * MIB


@pytest.mark.parametrize("script", ["exit 9", "echo no devices were found"])
def test_a_gpu_that_cannot_be_asked_is_left_to_say_it_is_full(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_nvidia_smi(tmp_path, script, monkeypatch)
    assert available_gpu_memory() is None
    half = manifest(variants=(Variant.FP16,))
    placement.check_memory(half, Variant.FP16, 10_000, 0, Device.CUDA)


def test_a_gpu_needs_room_for_the_whole_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    half, slot = manifest(variants=(Variant.FP16,)), 2 * 12 * 12 * 1024 * 64 * 2
    needed = resources.GPU_PROCESS_BYTES + 100 * MIB + 32 * slot
    monkeypatch.setattr(placement, "available_gpu_memory", lambda: needed)
    placement.check_memory(half, Variant.FP16, 32, 1024, Device.CUDA)
    with pytest.raises(
        Conflict, match=r"MiB of GPU memory are needed for fp16 with 33 slots, 2276 MiB are free"
    ):
        placement.check_memory(half, Variant.FP16, 33, 1024, Device.CUDA)
