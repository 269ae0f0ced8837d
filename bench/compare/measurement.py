"""What is measured of both sides: their engines in process, and their appliances over HTTP."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.compare.pairs import Pair
from bench.compare.sides import Side, appliances
from bench.peers.rounds import Sweep, measure
from bench.peers.worker import artifact_of
from bench.stack.running import without_errors
from perf.distribution import Distribution
from perf.errors import LoadError, PlanError
from perf.http.ask import Ask, Task
from perf.http.figures import Figures
from perf.http.load import Extent
from perf.http.plan import Level, LoadTarget, Plan
from perf.http.progress import Progress
from perf.http.prompts import Texts
from perf.http.run import greet, in_event_loop
from perf.http.run import measure as measure_http
from runtime.contract import Variant

RATE, FIRST_TOKEN = "tokens/s", "s to the first token"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both sides, and the work that they do. A part with no batches, or no streams, is left out."""

    old: Side
    new: Side
    checkpoint: Path
    variant: Variant
    batches: tuple[int, ...]
    streams: tuple[int, ...]
    prompt_tokens: int
    prompt_words: int
    max_tokens: int
    threads: int
    extent: Extent
    rounds: int  # counted ones, after one that warms up

    @property
    def conditions(self) -> str:
        """The work in sentences."""
        return (
            f"{self.checkpoint.name} in {self.variant.value}, {self.max_tokens} new tokens of each request,"
            f" greedy. In process: {self.threads} threads, prompts of {self.prompt_tokens} tokens. Over HTTP:"
            f" prompts of {self.prompt_words} words, {self.extent.seconds:g} s after"
            f" {self.extent.warmup:g} s. {self.rounds} rounds, in which the sides take turns."
            " First tokens: of the median sequence."
        )

    def measure(self) -> list[Pair]:
        """Raises PlanError without any work, and PerfError where a side fails."""
        if not self.batches and not self.streams:
            raise PlanError("--batches and --streams: both are empty; give one of them")
        pairs = self._in_process() if self.batches else []
        if not self.streams:
            return pairs
        with (
            TemporaryDirectory(prefix="lmaas-compare-") as folder,
            appliances((self.old, self.new), Path(folder), self.checkpoint, self.variant) as (old, new),
        ):
            targets = [LoadTarget(self.old.name, old.url), LoadTarget(self.new.name, new.url)]
            ask = Ask(Task.GENERATE, self.max_tokens, ignore_eos=True)
            levels = [Level(streams) for streams in self.streams]
            plan = Plan(targets, levels, ask, Texts(self.prompt_words), self.extent)
            return pairs + over_http(plan, self.rounds)

    def _in_process(self) -> list[Pair]:
        sweep = Sweep((self.prompt_tokens,), self.batches, self.rounds, self.max_tokens, self.threads)
        sides = (self.old, self.new)
        peers = [side.peer(self.variant) for side in sides]
        old, new = (found.figures for found in measure(peers, sweep, self.checkpoint))
        pairs = [start_up(sides, [artifact_of(peer) for peer in peers], self.rounds)]
        for cell in sweep.cells:
            what = f"in process, batch {cell.batch}"
            pairs += [
                Pair(what, RATE, True, old[cell].tokens_per_second, new[cell].tokens_per_second),
                Pair(what, FIRST_TOKEN, False, old[cell].first_token, new[cell].first_token),
            ]
        return pairs


def start_up(sides: Sequence[Side], artifacts: Sequence[Path], rounds: int) -> Pair:
    """A fresh process of each side in turn, on what its worker exported. Raises LoadError."""
    seconds: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for index in (0, 1) if number % 2 else (1, 0):
            found = sides[index].start_up(artifacts[index])
            if number:
                seconds[index].append(found)
    return Pair("start of an engine", FIRST_TOKEN, False, *seconds)


def over_http(plan: Plan, rounds: int) -> list[Pair]:
    """The old target and the new one, in this order in the plan, under every load in turn.

    One more round comes first and warms up. Raises LoadError where a request fails.
    """
    plan = greet(plan)
    rates: dict[tuple[Level, str], list[float]] = defaultdict(list)
    firsts: dict[tuple[Level, str], list[float]] = defaultdict(list)
    progress = Progress()
    for number in range(rounds + 1):
        for level in plan.levels:
            for target in plan.targets if number % 2 else reversed(plan.targets):
                done = without_errors(in_event_loop(measure_http(plan, level, target, number, progress)))
                figures = Figures.of([done], plan.ask)
                if number:
                    rates[level, target.name].append(figures.token_rate)
                    firsts[level, target.name].append(_median(figures.first_token, target))
    old, new = (target.name for target in plan.targets)
    pairs = []
    for level in plan.levels:
        what = f"over HTTP, {level.label} streams"
        pairs += [
            Pair(what, RATE, True, rates[level, old], rates[level, new]),
            Pair(what, FIRST_TOKEN, False, firsts[level, old], firsts[level, new]),
        ]
    return pairs


def _median(found: Distribution | None, target: LoadTarget) -> float:
    if found is None:
        raise LoadError(f"{target.name}: no answer began in the time that is measured: give more --seconds")
    return found.p50
