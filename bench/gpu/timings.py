"""Microseconds of decode steps and prompts of a session alone: no scheduler, no text, no other thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime

from bench.gpu.batches import DRAWN, GREEDY, decode, prefill
from bench.gpu.runner import Line
from runtime.cuda.accelerator import Accelerator, Provider
from runtime.cuda.captured import Shape
from runtime.cuda.decode_graphs import bucket
from runtime.kv_cache import KvCache
from runtime.session import LmSession

CHUNK = 512  # tokens of a prompt in one run
LENGTH = 40  # tokens of each sequence in a step
PROMPTS = (9, 23, 64, 128, 300, 512)  # tokens


@dataclass(frozen=True)
class Variation(Accelerator):
    """The GPU with other options of the provider, and more entries of the session's options."""

    provider: Mapping[str, Any] = field(default_factory=dict)
    entries: Mapping[str, str] = field(default_factory=dict)

    def providers(self, capture: bool) -> list[Provider]:
        cuda, *others = super().providers(capture)
        assert isinstance(cuda, tuple)
        return [(cuda[0], {**cuda[1], **self.provider}), *others]

    def open(
        self, model: bytes, options: onnxruntime.SessionOptions, *, capture: bool = False
    ) -> onnxruntime.InferenceSession:
        for name, value in self.entries.items():
            options.add_session_config_entry(name, value)
        return super().open(model, options, capture=capture)


class Timings:
    """Of a graph of kind lm in a folder with nothing but its files. All CUDA graphs are recorded."""

    def __init__(self, graph: Path, accelerator: Accelerator, slots: int, context: int = 1024) -> None:
        begin = time.perf_counter()
        self.session = LmSession(graph, 1, accelerator)
        self._stream, self._slots, self._context = accelerator.stream, slots, context
        layout = self.session.layout
        cache = KvCache(layout, slots, context, None, self.session.make_memory)
        self.session.attach(cache, min(CHUNK, context))
        self.session.capture()
        self.seconds_to_open = time.perf_counter() - begin
        self._weights = sum(file.stat().st_size for file in graph.parent.iterdir())
        self._row = 2 * sum(layout.layer_heads) * layout.row_bytes  # of a token in the cache

    def steps(self, rows: Sequence[int], rounds: int) -> Iterator[Line]:
        """One line for each number of rows; `bytes` is what a step must read at least."""
        for count in rows:
            greedy, drawn = (decode(*[one] * count, length=LENGTH) for one in (GREEDY, DRAWN))
            yield {
                "rows": count,
                "micros": _median(partial(self.session.decode, greedy), rounds),
                "micros_of_replay": self._replay(count, rounds),
                "micros_with_draw": _median(partial(self.session.decode, drawn), rounds),
                "bytes": self._weights + count * LENGTH * self._row,
            }

    def prompts(self, lengths: Sequence[int], rounds: int) -> Iterator[Line]:
        """In the second slot, whose CUDA graphs are recorded when the first prompt of a length comes."""
        for length in lengths:
            batch = prefill(length)
            batch.chunks[0].sequence.slot = 1
            first, again = (_median(partial(self.session.run, batch), count) for count in (1, rounds))
            yield {"prompt": length, "micros_of_first": first, "micros": again}

    def _replay(self, rows: int, rounds: int) -> float:
        """Of the CUDA graph alone: replays follow each other without copies, and the host waits once."""
        graphs = self.session._decode_graphs  # the laboratory looks inside
        assert graphs is not None
        shape = Shape(0, bucket(rows, self._slots), 1, self._context)

        def replays() -> None:
            for _ in range(rounds):
                graphs._runs.run(shape)
            self._stream.wait()

        return round(_median(replays, 3) / rounds, 2)


def _median(work: Callable[[], object], rounds: int) -> float:
    """Microseconds of one call."""
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return round(1e6 * median(taken), 2)
