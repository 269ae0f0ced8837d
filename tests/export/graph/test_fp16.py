"""The fp16 variant: half the bytes, sums in float32, and logits that fit into sixteen bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from export.checkpoint.folder import Checkpoint
from export.errors import CheckpointError
from export.pipeline import export_checkpoint
from export.quantization.centering import CenteredCheckpoint
from export.session import log_softmax
from export.verification import numpy_gpt2 as oracle
from runtime.contract import LmGraph, Variant
from runtime.manifest import Manifest
from tests.export.checkpoints import Ids, LmRunner, save_lm

PROMPTS: list[Ids] = [
    [int(token) for token in np.random.default_rng(seed).integers(1, 290, 4 + 3 * seed)] for seed in range(4)
]


def logprobs(logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> oracle.Array:
    return log_softmax(logits)


def test_answers_are_those_of_fp32(
    checkpoint: Callable[[str], Path], artifact: Callable[[str], Path]
) -> None:
    weights, config = oracle.load(checkpoint("lm"))
    runner = LmRunner(artifact("lm"), Variant.FP16)
    for slot, prompt in enumerate(PROMPTS):
        logits, _ = runner.run([prompt], [0], slot=slot)
        expected = oracle.lm_logits(weights, config, prompt)[-1:]
        assert np.abs(logprobs(logits) - logprobs(expected.astype(np.float32))).max() <= 0.01
    logits, _ = runner.run([[7], [8], [9], [10]], [len(prompt) for prompt in PROMPTS])
    for row, (prompt, token) in enumerate(zip(PROMPTS, (7, 8, 9, 10), strict=True)):
        expected = oracle.lm_logits(weights, config, [*prompt, token])[-1:]
        found = logprobs(logits[row : row + 1])
        assert np.abs(found - logprobs(expected.astype(np.float32))).max() <= 0.01


@pytest.mark.parametrize("kind", ["lm", "classifier", "tagger", "nlu"])
def test_matrices_take_sixteen_bits_and_norms_thirty_two(kind: str, artifact: Callable[[str], Path]) -> None:
    graph = onnx.load(artifact(kind) / "fp16" / "model.onnx").graph
    kept = {item.name for item in graph.initializer if item.data_type == TensorProto.FLOAT}
    heads = ("score", "classifier", "intent_head", "slot_head")
    norms_and_sums = ("wpe.weight", "c_proj.bias")
    for name in kept:
        assert ".ln_" in f".{name}" or name.startswith(heads) or name.endswith(norms_and_sums)
    assert {"h.0.ln_1.weight", "ln_f.bias", "h.1.mlp.c_proj.bias", "wpe.weight"} <= kept
    sizes = [(artifact(kind) / variant / "model.onnx").stat().st_size for variant in ("fp16", "fp32")]
    assert sizes[0] < 0.65 * sizes[1]


def test_the_cache_takes_sixteen_bits(artifact: Callable[[str], Path]) -> None:
    runner = LmRunner(artifact("lm"), Variant.FP16)
    types = {item.name: item.type for item in runner.session.get_inputs()}
    assert types[LmGraph.past_key(0)] == types[LmGraph.past_value(1)] == "tensor(float16)"
    outputs = {item.name: item.type for item in runner.session.get_outputs()}
    assert outputs[LmGraph.LOGITS] == outputs[LmGraph.HIDDEN] == "tensor(float)"


@pytest.mark.parametrize("tied", [True, False])
def test_logits_far_from_zero_lose_nothing(tied: bool, tmp_path: Path) -> None:
    """GPT-2 adds some -100 to every logit: here along a direction that all rows share."""
    model = save_lm(tmp_path / "checkpoint", tie_word_embeddings=tied)
    table = model.transformer.wte.weight if tied else model.lm_head.weight
    table.data[:, 5] -= 10
    model.transformer.ln_f.bias.data[5] += 10
    model.save_pretrained(tmp_path / "checkpoint")
    manifest = export_checkpoint(
        tmp_path / "checkpoint", tmp_path / "out", name="x", variants=[Variant.FP32, Variant.FP16]
    )
    plain, _ = LmRunner(tmp_path / "out", Variant.FP32).run([PROMPTS[2]], [0])
    assert plain.mean() < -30
    half, _ = LmRunner(tmp_path / "out", Variant.FP16).run([PROMPTS[2]], [0])
    assert abs(half.mean()) < 1
    assert np.abs(logprobs(half) - logprobs(plain)).max() <= 0.01
    quality = manifest.variants[Variant.FP16].quality
    assert quality is not None
    assert quality["max_logit_difference"] <= 0.02


@pytest.mark.parametrize("tied", [True, False])
def test_centering_changes_no_probability(tied: bool, tmp_path: Path) -> None:
    save_lm(tmp_path / "checkpoint", tie_word_embeddings=tied)
    plain = Checkpoint.open(tmp_path / "checkpoint")
    centered = CenteredCheckpoint(plain)
    weights, config = oracle.load(tmp_path / "checkpoint")
    changed = {name: centered.weight(name) for name in weights}
    assert np.array_equal(changed["wpe.weight"], weights["wpe.weight"]) is not tied
    expected = oracle.lm_logits(weights, config, PROMPTS[3])
    found = oracle.lm_logits(changed, config, PROMPTS[3])
    shift = found - expected
    assert np.abs(shift - shift.mean(axis=1, keepdims=True)).max() <= 1e-5
    assert np.abs(found.mean(axis=1)).max() <= 1e-5


def test_a_weight_beyond_sixteen_bits_is_named(tmp_path: Path) -> None:
    model = save_lm(tmp_path / "checkpoint")
    model.transformer.h[1].mlp.c_fc.weight.data[0, 0] = 70_000
    model.save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(
        CheckpointError, match=r"h\.1\.mlp\.c_fc\.weight: holds 70000, but fp16 ends at 65504"
    ):
        export_checkpoint(tmp_path / "checkpoint", tmp_path / "out", name="x", variants=[Variant.FP16])


def test_the_card_of_fp16_is_better_than_that_of_int8(artifact: Callable[[str], Path]) -> None:
    variants = Manifest.load(artifact("lm")).variants
    half, eight = variants[Variant.FP16].quality, variants[Variant.INT8].quality
    assert half is not None
    assert eight is not None
    assert half["mean_kl"] < 0.1 * eight["mean_kl"]
