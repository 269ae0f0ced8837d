"""Smoothing changes weights but not answers, and makes int8 robust against outliers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.checkpoint.folder import Checkpoint
from export.graph.build import write_graph
from export.pipeline import export_checkpoint
from export.quantization.smoothing import SmoothedCheckpoint, measure_ranges, watched_tensors
from export.verification import numpy_gpt2 as oracle
from runtime.contract import Variant
from tests.export.checkpoints import LmRunner, save_lm

ROWS = [[int(token) for token in np.random.default_rng(seed).integers(1, 290, 40)] for seed in range(4)]


@pytest.mark.parametrize("flags", [{}, {"n_embd": 30, "n_head": 6}, {"scale_attn_weights": False}])
def test_the_function_stays_the_same(flags: dict[str, Any], tmp_path: Path) -> None:
    save_lm(tmp_path / "checkpoint", **flags)
    plain = Checkpoint.open(tmp_path / "checkpoint")
    (graph,) = write_graph(plain, Variant.FP32, tmp_path / "plain.onnx")
    ranges = measure_ranges(graph, ROWS, plain.config)
    assert set(ranges) == set(watched_tensors(plain.config))
    smoothed = SmoothedCheckpoint(plain, ranges)
    names = ["wte.weight", "ln_f.bias", "h.0.ln_1.weight", "h.1.attn.c_attn.bias", "h.1.mlp.c_fc.weight"]
    changed = [not np.array_equal(plain.weight(name), smoothed.weight(name)) for name in names]
    assert changed == [False, False, True, True, True]
    weights, config = oracle.load(tmp_path / "checkpoint")
    folded = {name: smoothed.weight(name) for name in weights}
    for row in ROWS[:2]:
        expected = oracle.lm_logits(weights, config, row)
        assert np.abs(oracle.lm_logits(folded, config, row) - expected).max() <= 2e-5


def test_outliers_do_not_spoil_int8(tmp_path: Path) -> None:
    """Three channels of each norm are thirty times as wide, and the matrices after them as much narrower."""
    model = save_lm(tmp_path / "checkpoint")
    for block in model.transformer.h:
        for norm, reader in ((block.ln_1, block.attn.c_attn), (block.ln_2, block.mlp.c_fc)):
            norm.weight.data[[3, 17, 40]] *= 30
            norm.bias.data[[3, 17, 40]] *= 30
            reader.weight.data[[3, 17, 40]] /= 30
    model.save_pretrained(tmp_path / "checkpoint")
    plain = Checkpoint.open(tmp_path / "checkpoint")
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "out", name="x", variants=[Variant.INT8])
    (tmp_path / "rough" / "int8").mkdir(parents=True)
    write_graph(plain, Variant.INT8, tmp_path / "rough" / "int8" / "model.onnx")
    (tmp_path / "rough" / "manifest.json").write_bytes((tmp_path / "out" / "manifest.json").read_bytes())
    weights, config = oracle.load(tmp_path / "checkpoint")
    expected = oracle.lm_logits(weights, config, ROWS[0])
    errors = []
    for folder in ("out", "rough"):
        logits, _ = LmRunner(tmp_path / folder, Variant.INT8).run([ROWS[0]], [0], wanted=list(range(40)))
        errors.append(float(np.sqrt(np.mean((logits - expected) ** 2))))
    assert errors[0] < errors[1] / 2


def test_heads_are_smoothed_too(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    plain = Checkpoint.open(checkpoint("classifier"))
    (graph,) = write_graph(plain, Variant.FP32, tmp_path / "plain.onnx")
    ranges = measure_ranges(graph, ROWS, plain.config)
    weights, config = oracle.load(checkpoint("classifier"))
    smoothed = SmoothedCheckpoint(plain, ranges)
    folded = {name: smoothed.weight(name) for name in weights}
    expected = oracle.classifier_logits(weights, config, ROWS[0])
    assert np.abs(oracle.classifier_logits(folded, config, ROWS[0]) - expected).max() <= 2e-5
    assert [path.name for path in tmp_path.iterdir()] == ["plain.onnx"]
