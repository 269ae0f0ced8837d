"""One int8 graph in ONNX Runtime's own operators and in ours, side by side on GPT-2's 124M shape.

    python -m perf.operators

Milliseconds of one run of the graph, threads and spinning as a server has them, both in turn so that the
machine's drift falls on both alike: decode steps of 1 to 32 rows after 64 tokens (one of them after 540), and
prompts at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.checkpoint.folder import Checkpoint
from export.graph.build import write_graph
from kernels.library import missing
from kernels.session import element_type, open_graph
from perf.checkpoints import write_checkpoint
from perf.report import command_line, markdown_table, spread, write
from runtime.contract import GRAPH_FILE, Architecture, LmGraph, Variant
from runtime.session import SPIN_MICROSECONDS

ROWS, CONTEXT = 32, 640
AT_ONCE = 0.06  # seconds: short works are repeated until they take about as long


@dataclass(frozen=True, slots=True)
class Work:
    name: str
    rows: int
    tokens: int  # of each row
    past: int


WORKS = (
    *(Work(f"step of {rows}", rows, 1, 64) for rows in (1, 4, 8, 16, 32)),
    Work("step of 32 after 540", 32, 1, 540),
    *(Work(f"prompt of {tokens}", 1, tokens, 0) for tokens in (32, 128, 512)),
)


class Runner:
    """A session with its cache; `prepare` binds one piece of work."""

    def __init__(self, session: onnxruntime.InferenceSession, architecture: Architecture) -> None:
        self._session = session
        self._layers, self._vocabulary = architecture.num_layers, architecture.vocab_size
        key = next(value for value in session.get_inputs() if value.name == LmGraph.past_key(0))
        shape = (2 * self._layers, ROWS, architecture.num_heads, CONTEXT, int(key.shape[3]))
        self._cache = np.ones(shape, element_type(key))

    def prepare(self, work: Work) -> Callable[[], None]:
        binding, kept = self._session.io_binding(), []
        length = work.past + work.tokens
        positions = np.tile(np.arange(work.past, length), (work.rows, 1))
        inputs: dict[str, NDArray[Any]] = {
            LmGraph.INPUT_IDS: np.arange(work.rows * work.tokens).reshape(work.rows, work.tokens),
            LmGraph.POSITION_IDS: positions,
            LmGraph.SEQLENS_K: np.full(work.rows, length - 1, np.int32),
            LmGraph.TOTAL_SEQUENCE_LENGTH: np.array(length, np.int32),
            LmGraph.LOGIT_ROWS: np.arange(work.rows) * work.tokens + work.tokens - 1,
        }
        for name, array in inputs.items():
            kept.append(array)
            _bind(binding.bind_input, name, array)
        for layer in range(self._layers):
            for past, present, place in (
                (LmGraph.past_key(layer), LmGraph.present_key(layer), 2 * layer),
                (LmGraph.past_value(layer), LmGraph.present_value(layer), 2 * layer + 1),
            ):
                _bind(binding.bind_input, past, self._cache[place, : work.rows])
                _bind(binding.bind_output, present, self._cache[place, : work.rows])
        logits = np.empty((work.rows, self._vocabulary), np.float32)
        kept.append(logits)
        _bind(binding.bind_output, LmGraph.LOGITS, logits)

        def run(kept: list[NDArray[Any]] = kept) -> None:  # the arrays live as long as what reads them
            self._session.run_with_iobinding(binding)

        return run


def _bind(bind: Callable[..., None], name: str, array: NDArray[Any]) -> None:
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def options(threads: int) -> onnxruntime.SessionOptions:
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    chosen.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
    return chosen


def measure(runners: dict[str, Runner], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by runner and work, one for each round."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in runners}
    for work in WORKS:
        runs = {name: runner.prepare(work) for name, runner in runners.items()}
        repeats = {}
        for name, run in runs.items():
            run()
            begin = time.perf_counter()
            run()
            repeats[name] = max(1, int(AT_ONCE / (time.perf_counter() - begin)))
        for _ in range(rounds):
            for name, run in runs.items():
                begin = time.perf_counter()
                for _ in range(repeats[name]):
                    run()
                taken = (time.perf_counter() - begin) / repeats[name] * 1e3
                found[name].setdefault(work.name, []).append(taken)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    if reason := missing():
        parser.exit(1, f"nothing to compare: {reason}\n")
    with TemporaryDirectory() as scratch:
        write_checkpoint("gpt2", Path(scratch) / "checkpoint")
        checkpoint = Checkpoint.open(Path(scratch) / "checkpoint")
        graph = Path(scratch) / GRAPH_FILE
        write_graph(checkpoint, Variant.INT8, graph)
        plain = onnxruntime.InferenceSession(
            str(graph), options(chosen.threads), providers=["CPUExecutionProvider"]
        )
        sessions = {"ONNX Runtime's operators": plain, "ours": open_graph(graph, options(chosen.threads))}
        architecture = checkpoint.config.architecture
        runners = {name: Runner(session, architecture) for name, session in sessions.items()}
        found = measure(runners, chosen.rounds)
    theirs, ours = found.values()
    rows = [
        (
            work,
            spread(theirs[work], ".2f"),
            spread(ours[work], ".2f"),
            f"{_ratio(theirs[work], ours[work]):.2f}",
        )
        for work in theirs
    ]
    command = command_line("operators")
    text = f"`{command}`\n\nMilliseconds of one run, median (least to most):\n\n"
    text += markdown_table(("work", *found, "ratio"), rows)
    write("operators", text, {"command": command, "milliseconds": found})


def _ratio(theirs: list[float], ours: list[float]) -> float:
    return median(theirs) / median(ours)


if __name__ == "__main__":
    main()
