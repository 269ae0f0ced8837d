"""The messages between parent and worker: one JSON object per line, on the stdin and stdout of the worker.

| line to the worker                     | its answer                                                        |
| -------------------------------------- | ----------------------------------------------------------------- |
| an `Order`, once                       | `{"versions": {name: version}, "settings": text}`, model loaded   |
| `{"prompts": [[id]], "new_tokens": n}` | `{"seconds": s, "first_token_seconds": [s], "tokens": [[id]]}`    |

The end of stdin ends the worker. A worker that fails writes its traceback to stderr and ends. Standard
library only: every worker reads this file in its own environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Order:
    """What to load. `converted` is the peer's folder for the files that it makes from the checkpoint."""

    checkpoint: str
    converted: str
    precision: str
    threads: int
    most_sequences: int  # at once
    most_tokens: int  # of one sequence, prompt included

    @property
    def source(self) -> Path:
        return Path(self.checkpoint)

    @property
    def folder(self) -> Path:
        return Path(self.converted)


@dataclass(frozen=True, slots=True)
class Run:
    seconds: float  # from submitting all prompts to the last token
    first_token_seconds: list[float]  # of each sequence, from submitting
    tokens: list[list[int]]  # generated, of each sequence

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.tokens))


class Model(Protocol):
    """A loaded peer."""

    versions: dict[str, str]
    settings: str  # those that were chosen, for the report

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        """Answer all prompts at once, greedily, with exactly `new_tokens` tokens each."""


class Stopwatch:
    """Collects the tokens of one run and the times of the first ones; starts when made."""

    def __init__(self, num_sequences: int) -> None:
        self._tokens: list[list[int]] = [[] for _ in range(num_sequences)]
        self._firsts = [0.0] * num_sequences
        self._begin = time.perf_counter()

    def add(self, index: int, tokens: Sequence[int]) -> None:
        """Sequence `index` has further tokens."""
        if tokens and not self._tokens[index]:
            self._firsts[index] = time.perf_counter() - self._begin
        self._tokens[index] += tokens

    def stop(self) -> Run:
        return Run(time.perf_counter() - self._begin, self._firsts, self._tokens)


def serve(load: Callable[[Order], Model]) -> None:
    """The whole life of a worker."""
    # Libraries print to stdout: it becomes stderr, and the answers get another descriptor.
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        model = load(Order(**json.loads(sys.stdin.readline())))
        print(json.dumps({"versions": model.versions, "settings": model.settings}), file=answers)
        for line in sys.stdin:
            work = json.loads(line)
            print(json.dumps(asdict(model.run(work["prompts"], work["new_tokens"]))), file=answers)
