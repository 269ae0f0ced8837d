"""What a deployment becomes before anything is loaded."""

from __future__ import annotations

import pytest

from api.back.cluster import placement
from api.back.cluster.resources import available_memory, needed_memory
from api.errors import Conflict, InvalidInput
from runtime.contract import Kind, Variant
from tests.api.back.cluster.live_deployments import MIB, manifest, version

FP16_ONLY = (Variant.FP16,)


@pytest.mark.parametrize(
    ("variants", "precision", "variant"),
    [
        ((Variant.FP32, Variant.INT8), "auto", Variant.INT8),
        ((Variant.FP32, Variant.FP16), "auto", Variant.FP32),
        ((Variant.FP32, Variant.INT8), "fp32", Variant.FP32),
    ],
)
def test_a_precision_names_a_variant(variants: tuple[Variant, ...], precision: str, variant: Variant) -> None:
    assert placement.resolve_precision(manifest(variants=variants), precision) is variant


@pytest.mark.parametrize(
    ("variants", "precision", "text"),
    [
        (FP16_ONLY, "auto", "auto needs int8 or fp32; this version has fp16"),
        ((Variant.FP16, Variant.FP32), "fp16", "needs a GPU"),
        ((Variant.FP32,), "int8", "int8: this version has fp32"),
        ((Variant.FP32,), "int4", "'int4' is not one of"),
    ],
)
def test_a_precision_that_cannot_be_is_refused(
    variants: tuple[Variant, ...], precision: str, text: str
) -> None:
    with pytest.raises(InvalidInput, match=text) as caught:
        placement.resolve_precision(manifest(variants=variants), precision)
    assert caught.value.errors[0].field == "precision"


def test_a_version_that_is_not_ready_is_refused() -> None:
    with pytest.raises(Conflict, match="uploaded, not ready"):
        placement.plan(version(), "auto", 1, 100)


def test_the_need_counts_weights_twice_and_the_cache() -> None:
    cache_of_a_slot = 2 * 12 * 12 * 64 * 1024 * 4
    classifier = needed_memory(manifest(Kind.CLASSIFIER), Variant.INT8, 32)
    assert classifier == 350 * MIB
    assert needed_memory(manifest(), Variant.INT8, 32) == classifier + 32 * cache_of_a_slot
    assert available_memory() > 0
