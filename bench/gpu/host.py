"""Microseconds of Python in a decode step, as a GPU's engine takes them, with its graphs replaced by nothing.

    python -m bench host ARTIFACT

The step is that of the core with the choice of tokens; the output is text and answers of the same tokens.
They run in turn in one thread. A figure is the processor time that a tenth of the steps stays below: other
processes only add to it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from bench import report
from bench.gpu.checks import Sink
from bench.gpu.stand import Stand
from kernels.fusion import ARGMAX
from perf.counts import parse_counts
from perf.errors import PerfError
from perf.report import markdown_table
from runtime.config import EngineConfig
from runtime.contract import TOKENIZER_FILE, Kind, Variant
from runtime.core import EngineCore
from runtime.input_processor import InputProcessor
from runtime.manifest import Manifest
from runtime.output_processor import output_processor_for
from runtime.output_thread import OutputThread
from runtime.receipts import Receipt, release
from runtime.request import Request
from runtime.sampling import SamplingParameters
from runtime.session import LmSession
from runtime.text import Tokenizer

PROMPT, WORD = "the cat", " the"  # what requests say, and what every step answers


class Host:
    """The engine of an artifact without its threads, with requests in all `rows` slots."""

    def __init__(self, artifact: Path, rows: int, most_tokens: int) -> None:
        self.manifest, variant = Manifest.load(artifact), Variant.FP32
        graph = artifact / self.manifest.variants[variant].graph.path
        shape = self.manifest.architecture
        self.tokenizer = Tokenizer(artifact / TOKENIZER_FILE, shape.eos_token_id)
        session = LmSession(graph, 1, Stand())
        self.core = EngineCore(session, shape, EngineConfig(variant, num_slots=rows), lambda sequence: None)
        graphs = session._decode_graphs  # the laboratory looks inside; prompts use the same runs
        assert graphs is not None
        graphs._runs.run = lambda key: None  # type: ignore[method-assign]
        graphs._runs.outputs.arrays[ARGMAX][:] = self.tokenizer.encode(WORD)[0]
        self.output = OutputThread(lambda state: None, lambda state, fault: None)
        reader = InputProcessor(self.tokenizer, shape, self.core.cache.capacity)
        made = Receipt(
            release(), self.manifest.digest(variant), variant.value, session.kernels, "same-processor"
        )
        parameters = SamplingParameters(temperature=0, max_tokens=most_tokens, ignore_eos=True)
        for number in range(rows):
            request = Request(str(number), PROMPT, parameters=parameters, stream=True)
            state = reader.process(request, Sink())
            state.output = output_processor_for(state, self.tokenizer, lambda state, index: None, made)
            self.core.add(state)

    def run(self, steps: int) -> tuple[float, float]:
        """Microseconds of a step and of its output, once all prompts were read."""
        decoding: list[float] = []
        output: list[float] = []
        try:
            for _ in range(2 * self.core.cache.num_slots):  # prompts, and steps between them
                self.output.process(self.core.step())
            for _ in range(steps):
                begin = time.thread_time()
                events = self.core.step()
                middle = time.thread_time()
                self.output.process(events)
                decoding.append(middle - begin)
                output.append(time.thread_time() - middle)
        finally:
            self.output.close()
        return _low(decoding), _low(output)


def _low(seconds: list[float]) -> float:
    """Microseconds that a tenth stays below."""
    return 1e6 * sorted(seconds)[len(seconds) // 10]


def host(
    artifact: Path,
    rows: Annotated[str, typer.Option(help="Sequences at once.")] = "1,16,64",
    steps: Annotated[int, typer.Option(min=10, help="Of each number of rows.")] = 200,
) -> None:
    manifest = Manifest.load(artifact)
    if manifest.kind is not Kind.LM or Variant.FP32 not in manifest.variants:
        raise PerfError(f"{artifact}: not an artifact of a language model with fp32")
    counts = parse_counts("--rows", rows)
    needed = 3 * max(counts) + steps  # tokens of the first sequence: others are read after it
    if needed >= manifest.architecture.context_length:
        raise PerfError(f"--steps, --rows: {needed} tokens do not fit {manifest.architecture.context_length}")
    data = {}
    for count in counts:
        step, output = Host(artifact, count, needed).run(steps)
        data[str(count)] = {"step": step, "output": output}
    table = [
        [count, *(f"{one:.1f}" for one in found.values()), f"{sum(found.values()) / int(count):.2f}"]
        for count, found in data.items()
    ]
    columns = ("rows", "us of a step", "us of its output", "us of a token")
    report.write("host", markdown_table(columns, table), {"rows": data})
