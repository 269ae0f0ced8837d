"""transformers on a GPU: eager, and its bare step in a CUDA graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, StaticCache

from bench.gpu.runner import Line
from bench.peers.protocol import Prompts, Run
from bench.peers.transformers import generate

WARM_UPS = 3  # runs before a capture


class Transformers:
    """float16, eager, the whole batch in one `generate`."""

    name = "transformers"

    def __init__(self, checkpoint: Path) -> None:
        self._model = load(checkpoint, "cuda", torch.float16)

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        return generate(self._model, prompts, new_tokens)


def load(checkpoint: Path, device: str, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).eval().to(device)


def bare_step(model: Any, rows: int, length: int, capacity: int) -> Callable[[], torch.Tensor]:
    """One decode step over a cache of `capacity` tokens, at `length` of them: the best token of each row."""
    cache = StaticCache(config=model.config, max_cache_len=capacity)
    ids = torch.zeros((rows, 1), dtype=torch.long, device=model.device)
    place = torch.tensor([length], device=model.device)
    positions = place[None].expand(rows, 1)

    def step() -> torch.Tensor:
        done = model(ids, past_key_values=cache, cache_position=place, position_ids=positions, use_cache=True)
        return torch.as_tensor(done.logits[:, -1].argmax(-1))

    return step


def in_a_graph(checkpoint: Path, rows: int, length: int, capacity: int, rounds: int) -> Iterator[Line]:
    """Microseconds of a bare step of transformers as a CUDA graph: as it is, then compiled by torch."""
    plain = load(checkpoint, "cuda", torch.float16)
    compiled = torch.compile(plain, mode="max-autotune-no-cudagraphs", fullgraph=True)
    for model in (plain, compiled):
        with torch.inference_mode():
            step = bare_step(model, rows, length, capacity)
            for _ in range(WARM_UPS):
                step()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            taken = []
            for _ in range(rounds):
                begin = time.perf_counter()
                graph.replay()
                torch.cuda.synchronize()
                taken.append(time.perf_counter() - begin)
        yield {"compiled": model is compiled, "rows": rows, "micros": round(1e6 * median(taken), 1)}
