"""The fp32 `lm` graph against torch and against the NumPy oracle, driven as the engine drives it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export.pipeline import export_checkpoint
from export.verification import numpy_gpt2 as oracle
from runtime.contract import LmGraph, Variant
from tests.export.checkpoints import CONTEXT, VOCABULARY, LmRunner, save_lm

TOLERANCE = 2e-4
PROMPTS = [
    [int(token) for token in np.random.default_rng(seed).integers(1, 290, length)]
    for seed, length in enumerate((5, 9, 1, 14))
]
FLAGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "gelu": {"activation_function": "gelu"},
    "relu": {"activation_function": "relu"},
    "gelu_pytorch_tanh": {"activation_function": "gelu_pytorch_tanh"},
    "unscaled": {"scale_attn_weights": False},
    "inverse_layer": {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    "unscaled_inverse_layer": {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    "narrow_inner": {"n_inner": 40},
    "epsilon": {"layer_norm_epsilon": 1e-3},
    "head_size_16": {"n_head": 4},
    "head_size_5": {"n_embd": 30, "n_head": 6},
    "head_size_36": {"n_embd": 72, "n_head": 2},
    "one_layer": {"n_layer": 1},
}


@pytest.fixture
def runner(artifact: Callable[[str], Path]) -> LmRunner:
    return LmRunner(artifact("lm"), Variant.FP32)


@pytest.fixture
def expected(checkpoint: Callable[[str], Path]) -> Callable[[list[int]], oracle.Array]:
    weights, config = oracle.load(checkpoint("lm"))
    return lambda ids: oracle.lm_logits(weights, config, ids)


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS.keys())
def test_equals_torch_and_the_oracle(flags: dict[str, Any], tmp_path: Path) -> None:
    model = save_lm(tmp_path / "checkpoint", **flags)
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "out", name="x", variants=[Variant.FP32])
    runner = LmRunner(tmp_path / "out", Variant.FP32, slots=1)
    weights, config = oracle.load(tmp_path / "checkpoint")
    ids = PROMPTS[3]
    with torch.no_grad():
        reference = model(torch.tensor([ids])).logits[0].numpy()
    found, _ = runner.run([ids], [0], wanted=list(range(len(ids))))
    assert np.abs(found - reference).max() <= TOLERANCE
    assert np.abs(found - oracle.lm_logits(weights, config, ids)).max() <= TOLERANCE
    assert np.abs(reference).std() > 0.05  # an answer of nothing would be equal too


def test_greedy_tokens_equal_torch(checkpoint: Callable[[str], Path], runner: LmRunner) -> None:
    weights, config = oracle.load(checkpoint("lm"))
    for prompt in PROMPTS:
        logits, _ = runner.run([prompt], [0])
        tokens = [int(logits.argmax())]
        while len(tokens) < 12:
            logits, _ = runner.run([tokens[-1:]], [len(prompt) + len(tokens) - 1])
            tokens.append(int(logits.argmax()))
        assert tokens == oracle.greedy(weights, config, prompt, 12)


def test_hidden_is_what_the_head_reads(checkpoint: Callable[[str], Path], runner: LmRunner) -> None:
    weights, config = oracle.load(checkpoint("lm"))
    _, hidden = runner.run([PROMPTS[1]], [0], wanted=[2, 8])
    reference = oracle.hidden_states(weights, config, PROMPTS[1])[[2, 8]]
    assert np.abs(hidden - reference).max() <= TOLERANCE


@pytest.mark.parametrize("chunk", [1, 3, 4, 13])
def test_chunked_prefill_equals_whole(
    chunk: int, runner: LmRunner, expected: Callable[[list[int]], oracle.Array]
) -> None:
    prompt = PROMPTS[3]
    for start in range(0, len(prompt), chunk):
        logits, _ = runner.run([prompt[start : start + chunk]], [start], slot=3)
    assert np.abs(logits[0] - expected(prompt)[-1]).max() <= TOLERANCE


def test_decode_rows_of_different_lengths(
    runner: LmRunner, expected: Callable[[list[int]], oracle.Array]
) -> None:
    for slot, prompt in enumerate(PROMPTS):
        runner.run([prompt], [0], slot=slot)
    logits, _ = runner.run([[7], [8], [9], [10]], [len(prompt) for prompt in PROMPTS])
    for row, (prompt, token) in enumerate(zip(PROMPTS, (7, 8, 9, 10), strict=True)):
        assert np.abs(logits[row] - expected([*prompt, token])[-1]).max() <= TOLERANCE
    some, _ = runner.run([[8], [9]], [len(PROMPTS[1]), len(PROMPTS[2])], slot=1)
    assert np.array_equal(some, logits[1:3])  # a view of slots 1 and 2, written again with the same


def test_prompts_padded_on_the_right(runner: LmRunner, expected: Callable[[list[int]], oracle.Array]) -> None:
    logits, _ = runner.run(PROMPTS, [0] * 4)
    again, _ = runner.run([[7], [8], [9], [10]], [len(prompt) for prompt in PROMPTS])
    for row, prompt in enumerate(PROMPTS):
        assert np.abs(logits[row] - expected(prompt)[-1]).max() <= TOLERANCE
        assert np.abs(again[row] - expected([*prompt, 7 + row])[-1]).max() <= TOLERANCE


def test_no_rows_wanted(runner: LmRunner, expected: Callable[[list[int]], oracle.Array]) -> None:
    logits, hidden = runner.run([PROMPTS[0]], [0], wanted=[])
    assert logits.shape == (0, VOCABULARY)
    assert hidden.shape == (0, 64)
    logits, _ = runner.run([[7]], [len(PROMPTS[0])])
    assert np.abs(logits[0] - expected([*PROMPTS[0], 7])[-1]).max() <= TOLERANCE


def test_fills_the_context(runner: LmRunner, expected: Callable[[list[int]], oracle.Array]) -> None:
    ids = [int(token) for token in np.random.default_rng(9).integers(1, 290, CONTEXT)]
    runner.run([ids[:-1]], [0], slot=15)
    logits, _ = runner.run([ids[-1:]], [CONTEXT - 1], slot=15)
    assert np.abs(logits[0] - expected(ids)[-1]).max() <= TOLERANCE


def test_inputs_and_outputs_are_the_contract(runner: LmRunner) -> None:
    inputs = {item.name: (item.type, item.shape) for item in runner.session.get_inputs()}
    cache = ("tensor(float)", ["batch", 2, "context", 32])
    assert inputs == {
        LmGraph.INPUT_IDS: ("tensor(int64)", ["batch", "sequence"]),
        LmGraph.POSITION_IDS: ("tensor(int64)", ["batch", "sequence"]),
        LmGraph.SEQLENS_K: ("tensor(int32)", ["batch"]),
        LmGraph.TOTAL_SEQUENCE_LENGTH: ("tensor(int32)", []),
        LmGraph.LOGIT_ROWS: ("tensor(int64)", ["rows"]),
        **{LmGraph.past_key(layer): cache for layer in range(2)},
        **{LmGraph.past_value(layer): cache for layer in range(2)},
    }
    outputs = [item.name for item in runner.session.get_outputs()]
    assert outputs[:2] == [LmGraph.LOGITS, LmGraph.HIDDEN]
    assert set(outputs[2:]) == {
        name for layer in range(2) for name in (LmGraph.present_key(layer), LmGraph.present_value(layer))
    }


@pytest.mark.parametrize("variant", list(Variant))
@pytest.mark.parametrize("kind", ["lm", "classifier", "tagger", "nlu"])
def test_checker_and_node_names(kind: str, variant: Variant, artifact: Callable[[str], Path]) -> None:
    model = onnx.load(artifact(kind) / variant.value / "model.onnx")
    onnx.checker.check_model(model)
    names = [node.name for node in model.graph.node]
    assert len(names) == len(set(names))
    assert {"h.1.attn.c_attn", "h.1.mlp.c_proj", "h.0.attn", "ln_f", "wte"} <= set(names)


def test_large_weights_lie_beside_the_graph(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.graph.builder.MAX_INLINE_BYTES", 1000)
    manifest = export_checkpoint(checkpoint("lm"), tmp_path / "out", name="x", variants=[Variant.FP32])
    assert [file.path for file in manifest.variants[Variant.FP32].files] == [
        "fp32/model.onnx",
        "fp32/model.onnx.data",
    ]
    weights, config = oracle.load(checkpoint("lm"))
    logits, _ = LmRunner(tmp_path / "out", Variant.FP32).run([PROMPTS[1]], [0])
    assert np.abs(logits[0] - oracle.lm_logits(weights, config, PROMPTS[1])[-1]).max() <= TOLERANCE
