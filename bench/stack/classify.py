"""Texts per second over HTTP beside a bare session on the same graph, driven in a loop.

The session is opened as the server opens it, and driven in two ways: with rows of token ids, and with texts,
tokenized as the server does it. The target is a share of the latter. A second table has the processor time
of a text in each process, this one with the client of HTTP among them. The default sizes are those that a
sweep found fastest on two cores (reference/stack-classify-124m.md). For a classifier of GPT-2's 124M shape:

    python -m bench checkpoint gpt2 ./var/classifier --classifier
    lmaas models push classifier-124m ./var/classifier --deploy --precision int8 --force
    python -m bench stack classify --model classifier-124m
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from bench.stack.report import Bound, Model, Name, Pid, Report, Rounds, Target, publish
from bench.stack.running import Stack, answered
from cli.command import Url
from client.http import DEFAULT_URL
from perf.errors import PlanError
from perf.http.ask import Ask, Task
from perf.http.load import ClosedLoop, Extent
from perf.http.progress import Progress
from perf.http.prompts import Texts
from perf.http.run import in_event_loop
from perf.report import markdown_table, spread
from runtime.config import EngineConfig
from runtime.contract import TOKENIZER_FILE, HeadGraph, Kind
from runtime.heads.reader import HeadInput, Reader, Row
from runtime.manifest import Manifest
from runtime.session import open_session
from runtime.text import open_tokenizer

TARGET = Target("texts/s over HTTP, of those of a bare session that tokenizes,", Bound.AT_LEAST, 0.8, ".1%")
ASK = Ask(Task.CLASSIFY)
POOL = 256  # distinct texts
CLIENT = "this command"
LEAST_SHARE = 0.005  # of a load's processor time; a process with less is not listed
TIMEOUT = 60.0  # seconds of one request


@dataclass(frozen=True, slots=True)
class Shape:
    """A load over HTTP; one text is sent as a string, several as a list."""

    texts: int  # of a request
    concurrency: int  # requests under way

    def __str__(self) -> str:
        return f"{self.concurrency} requests under way, {self.texts} texts each"


@dataclass(frozen=True, slots=True)
class Rate:
    """One measurement."""

    texts_per_second: float
    processor_seconds: dict[str, float]  # of a text, by process; those that took next to nothing left out


def classify(
    model: Model = None,
    prompt_tokens: Annotated[int, typer.Option(help="Of a text.", min=1)] = 32,
    batch: Annotated[int, typer.Option(help="Texts of one run of the bare session.", min=1, max=POOL)] = 32,
    single: Annotated[int, typer.Option(help="Requests under way, one text each.", min=1)] = 32,
    lists: Annotated[
        str, typer.Option(help="TEXTSxREQUESTS: texts of a request, requests under way.")
    ] = "16x2",
    seconds: Annotated[float, typer.Option(help="Of each measurement, after as many of warm-up.")] = 6.0,
    rounds: Rounds = 5,
    url: Url = DEFAULT_URL,
    pid: Pid = None,
    name: Name = "stack-classify",
) -> None:
    stack = Stack.find(url, pid)
    deployed = stack.deployed(Kind.CLASSIFIER, model)
    shapes = (Shape(1, single), parse_shape(lists))
    folder, say = stack.folder(deployed), Progress().say
    texts = list(islice(Texts(0, prompt_tokens, str(folder)).draw("classify"), POOL))
    over_http, bare = HttpTexts(stack, deployed.model, texts), BareSession(folder, texts)
    runs: dict[str, Callable[[], Rate]] = {
        f"bare session, {what} in batches of {batch}": partial(bare.rate, batch, seconds, tokenize=tokenize)
        for what, tokenize in (("token ids", False), ("texts", True))
    }
    runs |= {f"HTTP: {shape}": partial(over_http.rate, shape, seconds) for shape in shapes}
    found: dict[str, list[Rate]] = {what: [] for what in runs}
    for number in range(rounds):
        for what in list(runs) if number % 2 else reversed(runs):
            found[what].append(runs[what]())
            say(f"{what}: {found[what][-1].texts_per_second:.0f} texts/s")
    speeds = {what: [rate.texts_per_second for rate in rates] for what, rates in found.items()}
    _, alone, *served = (median(rates) for rates in speeds.values())
    rows = [(what, spread(rates, ".0f"), f"{median(rates) / alone:.1%}") for what, rates in speeds.items()]
    report = Report(
        f"{deployed.label}, texts of {bare.length}, {bare.threads} threads. {rounds} rounds of"
        f" {seconds:g} s after as many of warm-up, in turn. Texts/s, median (least to most):",
        [(TARGET, max(served) / alone)],
        markdown_table(("", "texts/s", "of the bare session that tokenizes"), rows) + "\n" + _costs(found),
        {"texts_per_second": speeds, "processor_seconds_per_text": _seconds(found)},
    )
    publish(name, report)


def _seconds(found: Mapping[str, Sequence[Rate]]) -> dict[str, dict[str, float]]:
    """Processor time of a text by process, the median of all rounds."""
    return {
        what: {
            name: median(rate.processor_seconds[name] for rate in rates)
            for name in rates[0].processor_seconds
        }
        for what, rates in found.items()
    }


def _costs(found: Mapping[str, Sequence[Rate]]) -> str:
    seconds = _seconds(found)
    names = sorted({name for costs in seconds.values() for name in costs})
    rows = [
        (
            what,
            *(f"{1e6 * costs[name]:.0f}" if name in costs else "" for name in names),
            f"{1e6 * sum(costs.values()):.0f}",
        )
        for what, costs in seconds.items()
    ]
    return "Microseconds of a processor for a text:\n\n" + markdown_table(("", *names, "all"), rows)


def parse_shape(text: str) -> Shape:
    """From `16x2`. Raises PlanError."""
    numbers = [int(part) for part in text.split("x") if part.isdigit()]
    if len(numbers) != 2 or not all(0 < number <= POOL for number in numbers):
        raise PlanError(f"--lists: {text!r} is not TEXTSxREQUESTS, each from 1 to {POOL}, as 16x2")
    return Shape(*numbers)


class HttpTexts:
    """Texts sent to /v1/classify in requests of any number."""

    def __init__(self, stack: Stack, model: str, texts: list[str]) -> None:
        self._stack, self._origin = stack, stack.origin
        self._model, self._texts = model, texts

    def rate(self, shape: Shape, seconds: float) -> Rate:
        """With that load; processor time with its warm-up. Raises LoadError."""
        extent = Extent(seconds, seconds)
        load = ClosedLoop(self._origin, cycle(self.requests(shape)), extent, TIMEOUT, shape.concurrency)
        before, client = self._stack.processor_times(), time.process_time()
        run = in_event_loop(load.run())
        used = {CLIENT: time.process_time() - client, **self._stack.processor_seconds(before)}
        done = answered(run, ASK)
        texts = len(done.every) * shape.texts
        costs = {
            name: total / texts for name, total in used.items() if total > LEAST_SHARE * sum(used.values())
        }
        return Rate(done.requests_per_second * shape.texts, costs)

    def requests(self, shape: Shape) -> list[bytes]:
        """Every text once, as far as they fill whole requests."""
        return [self._request(shape, start) for start in range(0, POOL - shape.texts + 1, shape.texts)]

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
        self._reader = Reader(manifest, open_tokenizer(folder / TOKENIZER_FILE))
        self._texts = texts

    @property
    def length(self) -> str:
        """Tokens as the graph gets them, special ones with them."""
        lengths = sorted({len(row) for row in self._rows(self._texts)})
        return f"{' or '.join(map(str, lengths))} tokens"

    def rate(self, batch: int, seconds: float, *, tokenize: bool) -> Rate:
        """In batches of that size; without `tokenize`, the texts were read before."""
        groups = [self._texts[start : start + batch] for start in range(0, POOL - batch + 1, batch)]
        inputs = cycle([_padded(self._rows(group)) for group in groups])
        texts = cycle(groups)
        self._run(next(inputs))
        begin, before, runs = time.perf_counter(), time.process_time(), 0
        while (passed := time.perf_counter() - begin) < seconds or not runs:
            self._run(_padded(self._rows(next(texts))) if tokenize else next(inputs))
            runs += 1
        return Rate(runs * batch / passed, {CLIENT: (time.process_time() - before) / (runs * batch)})

    def _run(self, inputs: dict[str, NDArray[np.int64]]) -> None:
        self._session.run([HeadGraph.LOGITS], inputs)

    def _rows(self, texts: list[str]) -> list[list[int]]:
        rows = self._reader.read([HeadInput(text) for text in texts])
        return [row.ids for row in rows if isinstance(row, Row)]


def _padded(rows: list[list[int]]) -> dict[str, NDArray[np.int64]]:
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return {HeadGraph.INPUT_IDS: ids, HeadGraph.LENGTHS: np.array([len(row) for row in rows], np.int64)}
