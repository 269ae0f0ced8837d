"""Texts per second over HTTP beside a bare session on the same graph, driven in a loop.

The session is opened as the server opens it, and gets rows of token ids that are ready: it does not tokenize.
Both run at their best: a sweep finds the session's batch size, and how many texts a request has, and how many
requests are under way, over HTTP. For a classifier of GPT-2's 124M shape:

    python -m perf.checkpoints gpt2 ./var/classifier --classifier
    lmaas models push classifier-124m ./var/classifier --deploy --precision int8 --force
    lmaas perf stack classify --model classifier-124m
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from perf.http.ask import Ask, Task
from perf.http.load import ClosedLoop
from perf.http.progress import Progress
from perf.http.prompts import Texts
from perf.http.run import in_event_loop
from perf.http.schedule import Extent
from perf.report import markdown_table, spread
from perf.stack.report import Bound, Report, Target
from perf.stack.running import Stack, answered
from runtime.config import EngineConfig
from runtime.contract import TOKENIZER_FILE, HeadGraph, Kind, Manifest
from runtime.heads.reader import HeadInput, Reader, Row
from runtime.session import open_session
from runtime.text import open_tokenizer

Choice = TypeVar("Choice")

TARGET = Target("texts/s over HTTP, of those of a bare session,", Bound.AT_LEAST, 0.8, ".1%")
ASK = Ask(Task.CLASSIFY)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
PASSES = 2  # of the sweep
POOL = 256  # distinct texts
MOST_TEXTS = 256  # under way: an answer that takes longer than the warm-up has no steady rate
TIMEOUT = 60.0  # seconds of one request


@dataclass(frozen=True, slots=True)
class Shape:
    """A load over HTTP; one text is sent as a string, more as a list."""

    texts: int  # of a request
    concurrency: int  # requests under way

    def __str__(self) -> str:
        return f"{self.concurrency} requests under way, {self.texts} texts each"


SINGLE = tuple(Shape(1, concurrency) for concurrency in (8, 16, 32, 64, 128))
LISTS = tuple(
    Shape(texts, concurrency)
    for texts in (16, 64, 256)
    for concurrency in (1, 2, 4, 8)
    if texts * concurrency <= MOST_TEXTS
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt-tokens", type=int, default=32, help="of a text")
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="of each measurement, after as many of warm-up"
    )
    parser.add_argument("--sweep-seconds", type=float, default=2.0, help="of each in the sweep, likewise")
    parser.add_argument("--rounds", type=int, default=5)


def measure(stack: Stack, options: argparse.Namespace) -> Report:
    deployed = stack.deployed(Kind.CLASSIFIER, options.model)
    folder, say = stack.folder(deployed), Progress().say
    drawn = Texts(0, options.prompt_tokens, str(folder)).draw("classify")
    texts = list(islice(drawn, POOL))
    over_http, bare = HttpTexts(stack, deployed.model, texts), BareSession(folder, texts)
    sweep = options.sweep_seconds
    batches = best_rates(BATCHES, lambda batch: bare.rate(batch, sweep))
    shapes = best_rates((*SINGLE, *LISTS), lambda shape: over_http.rate(shape, sweep))
    batch = max(batches, key=batches.__getitem__)
    single, lists = (max(kind, key=shapes.__getitem__) for kind in (SINGLE, LISTS))
    say(f"best: batches of {batch}; {single}; {lists}")
    runs: dict[str, Callable[[], float]] = {
        f"bare session, batches of {batch}": lambda: bare.rate(batch, options.seconds),
        f"HTTP: {single}": lambda: over_http.rate(single, options.seconds),
        f"HTTP: {lists}": lambda: over_http.rate(lists, options.seconds),
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.rounds):
        for name in list(runs) if number % 2 else reversed(runs):
            found[name].append(runs[name]())
            say(f"{name}: {found[name][-1]:.0f} texts/s")
    alone, *served = (median(rates) for rates in found.values())
    rows = [(name, spread(rates, ".0f"), f"{median(rates) / alone:.1%}") for name, rates in found.items()]
    tried = [(f"batches of {size}", f"{rate:.0f}") for size, rate in batches.items()]
    tried += [(f"HTTP: {shape}", f"{rate:.0f}") for shape, rate in shapes.items()]
    return Report(
        f"{deployed.label}, texts of {bare.length}, {bare.threads} threads. {options.rounds} rounds of"
        f" {options.seconds:g} s after as many of warm-up, in turn. Texts/s, median (least to most):",
        [(TARGET, max(served) / alone)],
        f"{markdown_table(('', 'texts/s', 'of the bare session'), rows)}\n"
        f"The sweep, the better of {PASSES} measurements of {sweep:g} s:\n\n"
        f"{markdown_table(('', 'texts/s'), tried)}",
        {
            "texts_per_second": found,
            "batches": batches,
            "shapes": [{**asdict(shape), "texts_per_second": rate} for shape, rate in shapes.items()],
        },
    )


def best_rates(choices: Sequence[Choice], rate: Callable[[Choice], float]) -> dict[Choice, float]:
    """Of each the better of some measurements, a while apart: others may have taken the cores in one."""
    passes = [[rate(choice) for choice in choices] for _ in range(PASSES)]
    return {choice: max(rates) for choice, rates in zip(choices, zip(*passes, strict=True), strict=True)}


class HttpTexts:
    """Texts sent to /v1/classify in requests of any number."""

    def __init__(self, stack: Stack, model: str, texts: list[str]) -> None:
        self._origin, self._model, self._texts = stack.origin, model, texts

    def rate(self, shape: Shape, seconds: float) -> float:
        """Texts per second with that load. Raises LoadError."""
        extent = Extent(seconds, seconds)
        load = ClosedLoop(self._origin, cycle(self.requests(shape)), extent, TIMEOUT, shape.concurrency)
        return answered(in_event_loop(load.run()), ASK).requests_per_second * shape.texts

    def requests(self, shape: Shape) -> list[bytes]:
        """Every text once."""
        return [self._request(shape, start) for start in range(0, POOL, shape.texts)]

    def _request(self, shape: Shape, start: int) -> bytes:
        texts = self._texts[start : start + shape.texts]
        body: dict[str, Any] = {"model": self._model, "input": texts if shape.texts > 1 else texts[0]}
        return self._origin.post("/v1/classify", json.dumps(body).encode())


class BareSession:
    """The graph alone, with the threads that the server gives it."""

    def __init__(self, folder: Path, texts: list[str]) -> None:
        config, manifest = EngineConfig.load(folder), Manifest.load(folder)
        self.threads = config.threads
        graph = folder / manifest.variants[config.variant].graph.path
        self._session = open_session(graph, config.threads)
        reader = Reader(manifest, open_tokenizer(folder / TOKENIZER_FILE))
        rows = reader.read([HeadInput(text) for text in texts])
        self._rows = [row.ids for row in rows if isinstance(row, Row)]
        self._padding = manifest.architecture.pad_token_id

    @property
    def length(self) -> str:
        """Tokens as the graph gets them, special ones with them."""
        lengths = sorted({len(row) for row in self._rows})
        return f"{' or '.join(map(str, lengths))} tokens"

    def rate(self, batch: int, seconds: float) -> float:
        """Texts per second in batches of that size."""
        batches = cycle([self._batch(start, batch) for start in range(0, POOL, batch)])
        self._run(next(batches))
        begin, runs = time.perf_counter(), 0
        while (passed := time.perf_counter() - begin) < seconds or not runs:
            self._run(next(batches))
            runs += 1
        return runs * batch / passed

    def _run(self, inputs: dict[str, NDArray[np.int64]]) -> None:
        self._session.run([HeadGraph.LOGITS], inputs)

    def _batch(self, start: int, size: int) -> dict[str, NDArray[np.int64]]:
        rows = self._rows[start : start + size]
        ids = np.full((len(rows), max(map(len, rows))), self._padding, np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
        return {HeadGraph.INPUT_IDS: ids, HeadGraph.LENGTHS: np.array([len(row) for row in rows], np.int64)}
