"""The subjects: our engine, eager transformers, and transformers compiled over a static cache."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from bench.peers.ours import InProcess
from bench.peers.protocol import Prompts, Run
from bench.peers.transformers import generate
from runtime.contract import TOKENIZER_FILE
from runtime.engine import Engine

COPIED_BYTES = 1 << 30
COPIES = 20


class Ours(InProcess):
    name = "LMaaS"

    def __init__(self, engine: Engine, artifact: Path) -> None:
        super().__init__(engine, artifact / TOKENIZER_FILE)


class Transformers:
    """float16, the whole batch in one `generate`."""

    def __init__(self, checkpoint: Path, *, compiled: bool) -> None:
        self.name = "transformers, compiled" if compiled else "transformers"
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float16)
        self._model = model.eval().to("cuda")
        if compiled:
            # Over a cache of fixed size `generate` compiles the step itself, with CUDA graphs.
            self._model.generation_config.cache_implementation = "static"

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        return generate(self._model, prompts, new_tokens)


def measure_bandwidth() -> float:
    """Bytes per second of the GPU's memory, read and written together: the best of some copies within it."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(COPIES):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * COPIED_BYTES / best
