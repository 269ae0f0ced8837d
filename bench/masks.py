"""Milliseconds for a token of each sequence, with and without a grammar, from the engine in this process.

    python -m bench masks FOLDER

FOLDER is a version as a server's repository has it, with `engine.json`. Each round runs all kinds in turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Annotated, Any

import typer

from perf.errors import LoadError
from perf.report import markdown_table, spread
from runtime.contract import Fault, Operation
from runtime.engine import Engine
from runtime.load import load_engine
from runtime.messages import Answer, Generated
from runtime.request import parse_request

TOKENS = 64
# Texts that no kind ends before TOKENS.
LONG = {"type": "string", "minLength": 4000}
SCHEMA = {"type": "object", "properties": {"text": LONG}, "required": ["text"]}
KINDS: Mapping[str, dict[str, Any]] = {
    "greedy": {"temperature": 0, "ignore_eos": True},
    "greedy, JSON schema": {"temperature": 0, "guided_json": SCHEMA},
    "greedy, regex": {"temperature": 0, "guided_regex": "[a-z ,.]{4000,}"},
    "drawn": {"seed": 1, "ignore_eos": True},
    "drawn, JSON schema": {"seed": 1, "guided_json": SCHEMA},
    "drawn, regex": {"seed": 1, "guided_regex": "[a-z ,.]{4000,}"},
}


def masks(
    folder: Annotated[Path, typer.Argument(help="A version folder with engine.json.")],
    rows: Annotated[list[int] | None, typer.Option(help="Sequences that decode together.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
) -> None:
    counts = rows or [1, 8]
    engine = load_engine(folder)
    try:
        found = measure(engine, counts, rounds)
    finally:
        engine.close()
    table = [(kind, *(spread(found[count, kind], ".2f") for count in counts)) for kind in KINDS]
    typer.echo(markdown_table(("ms a token", *map(str, counts)), table))


def measure(engine: Engine, counts: list[int], rounds: int) -> dict[tuple[int, str], list[float]]:
    """Milliseconds of a decode step by number of rows and kind, one value for each round."""
    found: dict[tuple[int, str], list[float]] = {(count, kind): [] for count in counts for kind in KINDS}
    for number in range(rounds + 1):
        for count in counts:
            for kind, parameters in KINDS.items():
                seconds = _step_seconds(engine, count, parameters, f"{number}/{kind}/{count}")
                if number:  # the first round warms up
                    found[count, kind].append(1000 * seconds)
    return found


def _step_seconds(engine: Engine, count: int, parameters: dict[str, Any], name: str) -> float:
    ended: SimpleQueue[Generated | Fault] = SimpleQueue()
    sink = _Sink(ended)
    for number in range(count):
        request = parse_request(
            f"{name}/{number}",
            "Once upon a time",
            Operation.GENERATE,
            {**parameters, "max_tokens": TOKENS},
            stream=False,
        )
        engine.submit(request, sink)
    seconds = []
    for _ in range(count):
        answer = ended.get()
        if isinstance(answer, Fault):
            raise LoadError(f"{name}: {answer.message}")
        if answer.timings is None or len(answer.choices[0].token_ids) != TOKENS:
            raise LoadError(f"{name}: the answer ended early")
        seconds.append(answer.timings.decode_seconds / (TOKENS - 1))
    return median(seconds)


class _Sink:
    def __init__(self, ended: SimpleQueue[Generated | Fault]) -> None:
        self._ended = ended

    def send(self, answer: Answer, *, final: bool) -> None:
        if isinstance(answer, Generated):
            self._ended.put(answer)

    def fail(self, fault: Fault) -> None:
        self._ended.put(fault)
