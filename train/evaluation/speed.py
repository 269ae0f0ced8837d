"""Times of a target's answers: alone, one after another, and in batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from train.evaluation.target import Target

WARM_UP = 3  # requests whose times do not count


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of one request at a time, with no other under way."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[float]) -> Latency:
        """A percentile is a value that was measured."""
        p50, p95, p99 = np.percentile(samples, (50, 95, 99), method="inverted_cdf")
        mean = float(np.mean(samples))
        return cls(len(samples), mean, float(p50), float(p95), float(p99), tuple(samples))


@dataclass(frozen=True, slots=True)
class Speed:
    """None: not known, or not measured."""

    unit: str  # of one request, and of the throughput
    latency: Latency | None
    throughput: float | None  # units a second, in batches
    cpu_cores: float | None  # processor seconds a second while in batches
    memory: int | None  # bytes that are resident after it


def measure_latency(ask: Callable[[int], object], rows: int, samples: int) -> Latency | None:
    """Of `samples` of the rows, evenly spread; `ask` asks for one row by its number."""
    if not samples:
        return None
    chosen = np.linspace(0, rows - 1, min(rows, samples)).round().astype(int).tolist()
    for row in (chosen * WARM_UP)[:WARM_UP]:
        ask(row)
    seconds = []
    for row in chosen:
        begin = time.perf_counter()
        ask(row)
        seconds.append(time.perf_counter() - begin)
    return Latency.of(seconds)


class Stopwatch:
    """Wall and processor seconds of a block in which a target answers in batches."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.seconds = 0.0
        self.cpu_cores: float | None = None
        self.memory: int | None = None

    def __enter__(self) -> Stopwatch:
        self._before, self._begin = self._target.usage(), time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds, after = time.perf_counter() - self._begin, self._target.usage()
        self.memory = after.memory
        if after.cpu_seconds is not None and self._before.cpu_seconds is not None:
            self.cpu_cores = (after.cpu_seconds - self._before.cpu_seconds) / self.seconds
