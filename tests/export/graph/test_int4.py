"""The int4 variant: blocks of weights to four bits, one copy of the embedding, batches that do not show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export.pipeline import export_checkpoint
from runtime.contract import Variant
from runtime.manifest import Manifest
from tests.export.checkpoints import Ids, LmRunner, save_lm

PROMPTS: list[Ids] = [
    [int(token) for token in np.random.default_rng(row).integers(1, 290, 3 + 2 * row)] for row in range(8)
]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_decode_is_bit_identical_in_every_batch(size: int, artifact: Callable[[str], Path]) -> None:
    runner = LmRunner(artifact("lm"), Variant.INT4, slots=8)
    pasts = [len(prompt) for prompt in PROMPTS]
    for slot, prompt in enumerate(PROMPTS):
        runner.run([prompt], [0], slot=slot)
    tokens = [[row + 1] for row in range(8)]
    together, _ = runner.run(tokens, pasts)
    for first in range(0, 8 - size + 1, size):
        rows = slice(first, first + size)
        logits, _ = runner.run(tokens[rows], pasts[rows], slot=first)
        assert np.array_equal(logits, together[rows])


def test_the_blocks_take_four_bits_and_the_embedding_eight(artifact: Callable[[str], Path]) -> None:
    graph = onnx.load(artifact("lm") / "int4" / "model.onnx").graph
    sizes = {item.name: len(item.raw_data) for item in graph.initializer}
    assert sizes["h.0.mlp.c_fc.weight"] == 64 * 256 // 2
    assert sizes["h.0.mlp.c_fc.factors"] == 64 * 256 // 32
    assert sizes["wte.weight"] == 300 * 64
    assert "lm_head.weight" not in sizes


@pytest.mark.parametrize(
    "changes", [{}, {"n_embd": 36, "n_head": 3, "n_inner": 50}, {"tie_word_embeddings": False}]
)
def test_stays_near_fp32(changes: dict[str, Any], tmp_path: Path) -> None:
    save_lm(tmp_path / "checkpoint", **changes)
    manifest = export_checkpoint(
        tmp_path / "checkpoint", tmp_path / "out", name="x", variants=[Variant.INT8, Variant.INT4]
    )
    quality = [manifest.variants[variant].quality for variant in (Variant.INT8, Variant.INT4)]
    assert quality[0] is not None
    assert quality[1] is not None
    assert quality[0]["mean_kl"] < quality[1]["mean_kl"] < 0.5


@pytest.mark.parametrize("kind", ["classifier", "tagger", "nlu"])
def test_heads_agree_with_fp32(kind: str, artifact: Callable[[str], Path]) -> None:
    quality = Manifest.load(artifact(kind)).variants[Variant.INT4].quality
    assert quality is not None
    assert min(value for name, value in quality.items() if name.endswith("_agreement")) > 0.7
