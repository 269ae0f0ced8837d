"""Which variant a deployment serves, and what the quality gate lets through."""

from __future__ import annotations

import dataclasses

import pytest

from api.back.cluster import precision as chosen
from api.back.cluster.admission import plan
from api.back.cluster.quality_gate import QualityGate
from api.back.store.records import DeploymentRecord
from api.errors import Conflict, InvalidInput
from runtime.contract import Device, Kind, Variant
from runtime.manifest import Manifest
from tests.api.back.cluster.deployments import manifest, version

GATE = QualityGate()
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
    return plan(version(1, content), precision, 1, 100, gate=GATE, force=force)


@pytest.mark.parametrize(
    ("variants", "device", "precision", "variant"),
    [
        ((Variant.FP32, Variant.INT8), Device.CPU, "auto", Variant.INT8),
        ((Variant.FP32, Variant.FP16), Device.CPU, "auto", Variant.FP32),
        ((Variant.FP32, Variant.INT4), Device.CPU, "auto", Variant.INT4),
        (EVERY, Device.CPU, "auto", Variant.INT4),
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
    assert chosen.resolve_precision(content, precision, GATE, device) is variant


@pytest.mark.parametrize(
    ("variants", "device", "precision", "text"),
    [
        ((Variant.FP16,), Device.CPU, "auto", "auto needs int4 or int8 or fp32 here; this version has fp16"),
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
            chosen.resolve_precision(content, precision, GATE, device, force=force)
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
    assert GATE.excess(content, Variant.INT8) == [f"{name} is not in its quality card" for name in needed]


@pytest.mark.parametrize(
    ("poor", "variant", "named"),
    [
        (("int4",), Variant.INT8, "int4"),
        (("int4", "int8"), Variant.FP32, "int4"),
        (("int8",), Variant.INT4, None),
    ],
)
def test_auto_passes_over_what_is_over_the_budget_and_says_so(
    poor: tuple[str, ...], variant: Variant, named: str | None
) -> None:
    content = with_cards(**dict.fromkeys(poor, POOR), fp32=None)
    record = planned(content, "auto")
    assert record.variant is variant
    note = chosen.explain(content, record, GATE)
    over = f"{named} is quicker, but over the quality budget: top1_agreement 0.92, at least 0.97"
    assert note == (over if named else None)
    assert planned(content, "auto", force=True).variant is Variant.INT4


def test_auto_refuses_where_nothing_is_within_the_budget() -> None:
    content = with_cards(int8=POOR)
    only = dataclasses.replace(content, variants={Variant.INT8: content.variants[Variant.INT8]})
    with pytest.raises(Conflict, match="int8 is over the quality budget"):
        planned(only, "auto")


def test_a_note_tells_what_was_forced_and_nothing_else() -> None:
    content = with_cards(int8=POOR)
    forced = planned(content, "int8", force=True)
    note = chosen.explain(content, forced, GATE)
    assert note == "int8 is over the quality budget: top1_agreement 0.92, at least 0.97"
    assert chosen.explain(content, planned(content, "fp32"), GATE) is None
    assert chosen.explain(content, planned(content, "int4"), GATE) is None
    good = with_cards()
    assert chosen.explain(good, planned(good, "auto"), GATE) is None
