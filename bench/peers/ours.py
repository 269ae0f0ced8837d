"""Our engine in this process, as Triton's backend uses it: text goes in, text streams out.

The checkpoint is exported each time, because exporter and engine change between runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

from bench.peers.material import as_texts
from bench.peers.protocol import Order, Prompts, Run, Stopwatch, serve
from kernels.library import described_level
from runtime.contract import ENGINE_FILE, TOKENIZER_FILE, Fault
from runtime.engine import Engine
from runtime.load import load_engine
from runtime.messages import Answer, Generated
from runtime.request import Request
from runtime.sampling import SamplingParameters


def convert(order: Order) -> Path:
    target = order.folder / order.precision
    command = [sys.executable, "-m", "export", order.checkpoint, str(target), "--overwrite"]
    subprocess.run([*command, "--name", "gpt2", "--variants", order.precision], check=True)
    engine = {"variant": order.precision, "num_slots": order.most_sequences, "threads": order.threads}
    (target / ENGINE_FILE).write_text(json.dumps(engine))
    return target


class Collector:
    """Takes the answers of one request; `left` counts the requests without an end."""

    def __init__(self, watch: Stopwatch, index: int, left: threading.Semaphore) -> None:
        self._watch = watch
        self._index = index
        self._left = left
        self.fault: Fault | None = None

    def send(self, answer: Answer, *, final: bool) -> None:
        if isinstance(answer, Generated):
            for choice in answer.choices:
                self._watch.add(self._index, choice.token_ids)
        if final:
            self._left.release()

    def fail(self, fault: Fault) -> None:
        self.fault = fault
        self._left.release()


class InProcess:
    """An engine and the tokenizer that makes its texts."""

    def __init__(self, engine: Engine, tokenizer: Path) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._requests = 0

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        texts = as_texts(self._tokenizer, prompts)
        parameters = SamplingParameters(max_tokens=new_tokens, temperature=0, ignore_eos=True)
        ended = threading.Semaphore(0)
        watch = Stopwatch(len(prompts))
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


class Ours(InProcess):
    def __init__(self, order: Order) -> None:
        folder = convert(order)
        super().__init__(load_engine(folder), folder / TOKENIZER_FILE)
        self.versions = {"onnxruntime": version("onnxruntime")}
        slots, operators = order.most_sequences, described_level()
        self.settings = f"in process, num_slots {slots}, operators {operators}, everything else by default"


if __name__ == "__main__":
    serve(Ours)
