"""Subjects in turn over the same prompts: a GPU that warms up or slows down does so for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.peers.material import PromptSource
from bench.peers.protocol import Prompts, Run
from perf.report import spread


class Subject(Protocol):
    @property
    def name(self) -> str: ...

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        """Answer all prompts at once, greedily, with exactly `new_tokens` tokens each."""


@dataclass(frozen=True, slots=True)
class Case:
    batch: int
    prompt: int  # tokens

    def __str__(self) -> str:
        return f"{self.batch} x {self.prompt}"


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that a decode step must read at least."""

    weights: int
    per_token: int  # of one sequence's cache, for each of its tokens

    def of_step(self, case: Case, new_tokens: int) -> float:
        """On average half of the new tokens are in the cache."""
        return self.weights + case.batch * (case.prompt + new_tokens / 2) * self.per_token


@dataclass(slots=True)
class CaseResult:
    """Of one subject and case, one figure for each round; or why there is none."""

    tokens_per_second: list[float]  # prompts included in the time
    step_seconds: list[float]  # what each token of all sequences after their first adds
    failure: str = ""

    def row(self, subject: str, case: Case, traffic: Traffic, bandwidth: float, new_tokens: int) -> list[str]:
        if self.failure:
            return [str(case), subject, self.failure, "", "", ""]
        least = traffic.of_step(case, new_tokens) / bandwidth
        return [
            str(case),
            subject,
            spread(self.tokens_per_second, ".0f"),
            spread([case.batch / seconds for seconds in self.step_seconds], ".0f"),
            spread([1e3 * seconds for seconds in self.step_seconds], ".2f"),
            spread([100 * least / seconds for seconds in self.step_seconds], ".0f"),
        ]


COLUMNS = (
    "batch x prompt",
    "",
    "tokens/s",
    "tokens/s after the first",
    "ms for one more of each",
    "% of the memory's bandwidth",
)


def measure(
    subjects: Sequence[Subject],
    cases: Sequence[Case],
    source: PromptSource,
    rounds: int,
    new_tokens: int,
    say: Callable[[str], None],
) -> dict[Case, dict[str, CaseResult]]:
    """Each subject runs each case once unmeasured first, to compile and capture what it needs."""
    found: dict[Case, dict[str, CaseResult]] = {}
    for case in cases:
        found[case] = {subject.name: CaseResult([], []) for subject in subjects}
        for number in range(1 + rounds):
            whole, first = (source.take(case.batch, case.prompt) for _ in range(2))
            turn = number % len(subjects)  # another one begins in each round, on a GPU that has cooled down
            for subject in [*subjects[turn:], *subjects[:turn]]:
                measured = found[case][subject.name]
                if measured.failure:
                    continue
                say(f"{case}, round {number} of {rounds}: {subject.name}")
                try:
                    figures = _run(subject, whole, first, new_tokens)
                except Exception as error:  # no memory or no compiler: the others continue
                    lines = str(error).splitlines() or [""]
                    measured.failure = f"failed: {type(error).__name__}: {lines[0][:80]}"
                    continue
                if number:
                    measured.tokens_per_second.append(figures[0])
                    measured.step_seconds.append(figures[1])
    return found


def _run(subject: Subject, whole: Prompts, first: Prompts, new_tokens: int) -> tuple[float, float]:
    """Tokens per second, and the seconds that one more token of all sequences takes.

    The latter is from two runs, because our engine does not begin all sequences at once: the time after the
    last first token is not decoding of the whole batch alone. The second run has other prompts, since our
    engine keeps those of the first in its cache.
    """
    long, short = subject.run(whole, new_tokens), subject.run(first, 1)
    return long.num_tokens / long.seconds, (long.seconds - short.seconds) / (new_tokens - 1)
