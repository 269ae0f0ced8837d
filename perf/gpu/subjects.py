"""Who is measured: our engine, transformers as it is, transformers compiled over a static cache."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from perf.peers.generate import generate
from perf.peers.material import as_texts
from perf.peers.ours import Collector
from perf.peers.protocol import Prompts, Run, Stopwatch
from runtime.contract import TOKENIZER_FILE
from runtime.engine import Engine
from runtime.request import Request
from runtime.sampling import SamplingParameters

COPIED_BYTES = 1 << 30
COPIES = 20


class Ours:
    """The engine that serves, in this process: text goes in, tokens stream out."""

    name = "LMaaS"

    def __init__(self, engine: Engine, artifact: Path) -> None:
        self._engine = engine
        self._tokenizer = artifact / TOKENIZER_FILE
        self._requests = 0

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        texts = as_texts(self._tokenizer, prompts)
        parameters = SamplingParameters(max_tokens=new_tokens, temperature=0, ignore_eos=True)
        ended, watch = threading.Semaphore(0), Stopwatch(len(prompts))
        collectors = [Collector(watch, index, ended) for index in range(len(prompts))]
        for text, collector in zip(texts, collectors, strict=True):
            self._requests += 1
            request = Request(f"speed-{self._requests}", text, parameters=parameters, stream=True)
            self._engine.submit(request, collector)
        for _ in prompts:
            ended.acquire()
        run = watch.stop()
        for collector in collectors:
            if collector.fault is not None:
                raise RuntimeError(collector.fault.encode())
        return run


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
