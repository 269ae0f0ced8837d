"""The int8 variant: what it stores, how near it stays, and that batches do not show in its answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from export.graph.int8 import quantize_rows
from export.pipeline import export_checkpoint
from export.verification import numpy_gpt2 as oracle
from runtime.contract import Variant
from runtime.manifest import Manifest
from tests.export.checkpoints import Ids, LmRunner, save_lm

BATCH = 16
PROMPTS: list[Ids] = [
    [int(token) for token in np.random.default_rng(row).integers(1, 290, 3 + 2 * row)] for row in range(BATCH)
]


@pytest.fixture
def runner(artifact: Callable[[str], Path]) -> LmRunner:
    return LmRunner(artifact("lm"), Variant.INT8, slots=BATCH)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
def test_decode_is_bit_identical_in_every_batch(size: int, runner: LmRunner) -> None:
    pasts = [len(prompt) for prompt in PROMPTS]
    for slot, prompt in enumerate(PROMPTS):
        runner.run([prompt], [0], slot=slot)
    tokens = [[row + 1] for row in range(BATCH)]
    together, hidden = runner.run(tokens, pasts)
    for first in range(0, BATCH - size + 1, size):
        rows = slice(first, first + size)
        logits, states = runner.run(tokens[rows], pasts[rows], slot=first)
        assert np.array_equal(logits, together[rows])
        assert np.array_equal(states, hidden[rows])


def test_prefill_is_bit_identical_alone_and_in_a_batch(runner: LmRunner) -> None:
    together, _ = runner.run(PROMPTS, [0] * BATCH)
    for slot, prompt in enumerate(PROMPTS):
        alone, _ = runner.run([prompt], [0], slot=slot)
        assert np.array_equal(alone[0], together[slot])


def test_stays_near_fp32(checkpoint: Callable[[str], Path], runner: LmRunner) -> None:
    weights, config = oracle.load(checkpoint("lm"))
    for prompt in PROMPTS[4:8]:
        logits, _ = runner.run([prompt], [0])
        reference = oracle.lm_logits(weights, config, prompt)[-1]
        assert np.abs(logits[0] - reference).max() <= 0.1 * np.abs(reference).max()


def test_no_rows_wanted(runner: LmRunner) -> None:
    logits, hidden = runner.run([PROMPTS[0]], [0], wanted=[])
    assert logits.shape == (0, 300)
    assert hidden.shape == (0, 64)


@pytest.mark.parametrize("tied", [True, False])
def test_matrices_are_stored_once_and_in_eight_bits(tied: bool, tmp_path: Path) -> None:
    save_lm(tmp_path / "checkpoint", tie_word_embeddings=tied)
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "out", name="x", variants=[Variant.INT8])
    assert not (tmp_path / "out" / "fp32").exists()
    graph = onnx.load(tmp_path / "out" / "int8" / "model.onnx").graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    full = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert {tensor.name for tensor in full if len(tensor.dims) == 2} == {"wpe.weight"}
    assert ("lm_head.weight" in shapes) is not tied
    assert shapes["wte.weight"] == (300, 64)


def test_a_row_of_zeros_answers_zero(tmp_path: Path) -> None:
    """Zero embeddings meet zero norms: every scale is 0, and nothing may become NaN."""
    model = save_lm(tmp_path / "checkpoint")
    for name, parameter in model.named_parameters():
        if "ln_" in name:
            parameter.data.zero_()
    model.save_pretrained(tmp_path / "checkpoint")
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "out", name="x", variants=[Variant.INT8])
    logits, _ = LmRunner(tmp_path / "out", Variant.INT8).run([PROMPTS[0]], [0])
    assert np.array_equal(logits, np.zeros_like(logits))


def test_quality_card(artifact: Callable[[str], Path]) -> None:
    entries = Manifest.load(artifact("lm")).variants
    quality = entries[Variant.INT8].quality
    assert entries[Variant.FP32].quality is None
    assert quality is not None
    assert set(quality) == {
        *(
            "perplexity",
            "perplexity_change",
            "mean_kl",
            "top1_agreement",
            "greedy_agreement",
            "greedy_tokens",
        ),
        *("max_logit_difference", "tokens"),
    }
    assert abs(quality["perplexity_change"]) < 0.05
    assert 0 < quality["mean_kl"] < 0.05
    assert 0.8 < quality["top1_agreement"] <= 1


@given(
    arrays.arrays(
        np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.floats(-100, 100, width=32)
    )
)
def test_rounding_error_is_at_most_half_a_step(
    rows: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> None:
    quantized, scales = quantize_rows(rows)
    restored = quantized.astype(np.float64) * scales[:, None]
    assert quantized.min() >= -127
    # Half a step; rows whose step is below float32's normal range become zeros.
    assert np.all(np.abs(restored - rows) <= scales[:, None] * 0.501 + 2e-36)
