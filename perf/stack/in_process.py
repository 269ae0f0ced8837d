"""Tokens per second over HTTP beside the same prompts through the engine in this process.

Both load the same folder with the same engine.json, and both are a closed loop: so many streams, each of
which asks again as soon as it has its answer. The stack is up, but idle, while the engine here runs.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from queue import Empty, SimpleQueue
from statistics import median

from perf.errors import LoadError
from perf.http.ask import Ask, Task
from perf.http.plan import Level, Plan
from perf.http.plan import Target as Served
from perf.http.progress import Progress
from perf.http.prompts import Texts
from perf.http.run import in_event_loop, seed_of
from perf.http.run import measure as measure_http
from perf.http.schedule import Extent
from perf.report import markdown_table, spread
from perf.stack.report import Bound, Report, Target
from perf.stack.running import Stack
from runtime.answers import Answer, Generated
from runtime.contract import Fault, Kind
from runtime.engine import Engine
from runtime.request import Request
from runtime.sampling import SamplingParameters

TARGET = Target("tokens/s over HTTP, of those in process,", Bound.AT_LEAST, 0.85, ".1%")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=16, help="under way at once")
    parser.add_argument("--prompt-words", type=int, default=24)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--warmup", type=float, default=2.0, help="seconds before each")
    parser.add_argument("--rounds", type=int, default=5)


def measure(stack: Stack, options: argparse.Namespace) -> Report:
    deployed = stack.deployed(Kind.LM, options.model)
    ask = Ask(Task.GENERATE, options.max_tokens, ignore_eos=True)
    extent = Extent(options.warmup, options.seconds)
    level = Level(options.streams)
    served = Served("http", stack.url, model=deployed.model)
    plan = Plan([served], [level], ask, Texts(options.prompt_words), extent, seed=time.time_ns())
    engine = Engine.load(stack.folder(deployed))
    over_http: list[float] = []
    in_process: list[float] = []
    client: list[float] = []
    progress = Progress()

    def run_http(number: int) -> None:
        done = in_event_loop(measure_http(plan, level, served, number, progress))
        if any(outcome.error for outcome in done.every):
            raise LoadError("requests over HTTP failed; `lmaas perf http` tells how")
        over_http.append(done.tokens_per_second)
        client.append(done.cpu_seconds / done.seconds)

    def run_engine(number: int) -> None:
        texts = plan.texts.draw(seed_of(plan, level, number))
        in_process.append(ClosedLoop(engine, ask, texts, number).run(options.streams, extent))
        progress.say(f"in process at {options.streams}: {in_process[-1]:.0f} tokens/s")

    try:
        for number in range(options.rounds):
            turns = (run_http, run_engine) if number % 2 else (run_engine, run_http)
            for turn in turns:
                turn(number)
    finally:
        engine.close()
    shares = [http / engine_rate for http, engine_rate in zip(over_http, in_process, strict=True)]
    rows = [("over HTTP", spread(over_http, ".0f")), ("in process", spread(in_process, ".0f"))]
    rows.append(("share by round", spread(shares, ".1%")))
    rows.append(("share of the medians", f"{median(over_http) / median(in_process):.1%}"))
    return Report(
        f"{deployed.label}, {options.streams} streams, {ask.described(plan.texts)}; {engine.config}."
        f" {options.rounds} rounds of {extent.seconds:g} s after {extent.warmup:g} s, in turn."
        f" The client of HTTP took {median(client):.1%} of a core. Tokens/s, median (least to most):",
        [(TARGET, median(shares))],
        markdown_table(("", "tokens/s"), rows),
        {"over_http": over_http, "in_process": in_process, "shares": shares, "client_cpu_share": client},
    )


@dataclass(slots=True)
class ClosedLoop:
    """So many requests under way in an engine; the delivery thread notes what comes, and when."""

    engine: Engine
    ask: Ask
    texts: Iterator[str]
    number: int  # of the round: request ids must not repeat
    _arrivals: list[tuple[float, int]] = field(default_factory=list)
    _ended: SimpleQueue[Fault | None] = field(default_factory=SimpleQueue)

    def run(self, streams: int, extent: Extent) -> float:
        """Tokens per second within the window; streams begin as over HTTP. Raises LoadError."""
        ids = count()
        start = time.perf_counter()
        begin = start + extent.warmup
        end = begin + extent.seconds
        due = deque(start + extent.stagger * stream / streams for stream in range(streams))
        left = streams
        while left:
            try:
                fault = self._ended.get(timeout=max(0.0, due[0] - time.perf_counter()) if due else None)
            except Empty:
                due.popleft()
                self._submit(next(ids))
                continue
            if fault is not None:
                raise LoadError(f"the engine in process: {fault.message}")
            if time.perf_counter() < end:
                self._submit(next(ids))
            else:
                left -= 1
        return sum(tokens for at, tokens in self._arrivals if begin <= at <= end) / extent.seconds

    def _submit(self, number: int) -> None:
        parameters = SamplingParameters(
            max_tokens=self.ask.max_tokens,
            temperature=self.ask.temperature,
            ignore_eos=self.ask.ignore_eos,
        )
        request = Request(
            f"{self.number}/{number}",
            next(self.texts),
            parameters=parameters,
            stream=True,
            with_logprob=False,
        )
        self.engine.submit(request, self)

    # What the engine's delivery thread calls

    def send(self, answer: Answer, *, final: bool) -> None:
        if isinstance(answer, Generated):
            tokens = sum(len(choice.token_ids) for choice in answer.choices)
            self._arrivals.append((time.perf_counter(), tokens))
        if final:
            self._ended.put(None)

    def fail(self, fault: Fault) -> None:
        self._ended.put(fault)
