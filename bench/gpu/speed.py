"""Subjects in turn over the same prompts: a GPU that warms up or slows down does so for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from bench.gpu.runner import Line
from bench.peers.material import PromptSource
from bench.peers.ours import InProcess
from bench.peers.protocol import Prompts, Run
from runtime.contract import TOKENIZER_FILE
from runtime.engine import Engine


class Subject(Protocol):
    @property
    def name(self) -> str: ...

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        """Answer all prompts at once, greedily, with exactly `new_tokens` tokens each."""


class Ours(InProcess):
    name = "LMaaS"

    def __init__(self, engine: Engine, artifact: Path) -> None:
        super().__init__(engine, artifact / TOKENIZER_FILE)


@dataclass(frozen=True, slots=True)
class Case:
    batch: int
    prompt: int  # tokens


@dataclass(slots=True)
class Measured:
    """Of one subject and case, one figure for each round; or why there is none."""

    subject: str
    tokens_per_second: list[float]  # prompts included in the time
    step_seconds: list[float]  # what each token of all sequences after their first adds
    failed: str = ""


def measure(
    subjects: Sequence[Subject], cases: Sequence[Case], source: PromptSource, rounds: int, new_tokens: int
) -> Iterator[Line]:
    """A line for each case and subject; each runs a case once unmeasured first, to record what it needs."""
    for case in cases:
        found = {subject.name: Measured(subject.name, [], []) for subject in subjects}
        for number in range(1 + rounds):
            whole, first = (source.take(case.batch, case.prompt) for _ in range(2))
            turn = number % len(subjects)  # another one begins in each round, on a GPU that has cooled down
            for subject in [*subjects[turn:], *subjects[:turn]]:
                measured = found[subject.name]
                if measured.failed:
                    continue
                try:
                    figures = _run(subject, whole, first, new_tokens)
                except Exception as error:  # no memory, say: the others continue
                    lines = str(error).splitlines() or [""]
                    measured.failed = f"{type(error).__name__}: {lines[0][:80]}"
                    continue
                if number:
                    measured.tokens_per_second.append(figures[0])
                    measured.step_seconds.append(figures[1])
        for measured in found.values():
            yield asdict(case) | asdict(measured)


def _run(subject: Subject, whole: Prompts, first: Prompts, new_tokens: int) -> tuple[float, float]:
    """Tokens per second, and the seconds that one more token of all sequences takes.

    The latter is from two runs, because our engine does not begin all sequences at once: the time after the
    last first token is not decoding of the whole batch alone. The second run has other prompts, since our
    engine keeps those of the first in its cache.
    """
    long, short = subject.run(whole, new_tokens), subject.run(first, 1)
    return long.num_tokens / long.seconds, (long.seconds - short.seconds) / (new_tokens - 1)
