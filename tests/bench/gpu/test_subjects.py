"""The bare step of transformers that becomes a CUDA graph, here on the CPU."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.gpu.subjects import bare_step, load
from tests.export.checkpoints import save_lm


def test_a_step_is_that_of_the_model_at_its_place(tmp_path: Path) -> None:
    save_lm(tmp_path)
    model = load(tmp_path, "cpu", torch.float32)
    with torch.inference_mode():
        step = bare_step(model, rows=2, length=0, capacity=16)
        expected = model(torch.zeros((2, 1), dtype=torch.long)).logits[:, -1].argmax(-1)
        assert step().tolist() == step().tolist() == expected.tolist()
