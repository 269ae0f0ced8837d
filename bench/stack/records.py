"""What the durable records of tasks cost: tokens a second with them, of those without, at 16 streams.

The command starts two appliances of this checkout with one bundled model each; the façade of one of them
writes no records. They are under load in turn, and every round begins with the other one.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import httpx
import typer

from bench.compare.measurement import over_http
from bench.compare.pairs import COLUMNS, rows_of
from bench.facades import ROOT, Facade, free_port
from bench.stack.report import Bound, MaxTokens, Name, Report, Rounds, Seconds, Target, Warmup, publish
from perf.http.ask import Ask, Task
from perf.http.load import Extent
from perf.http.plan import Level, LoadTarget, Plan
from perf.http.prompts import Texts
from perf.report import markdown_table

TARGET = Target("tokens/s with records, of those without,", Bound.AT_LEAST, 0.95, ".1%")
MODEL = ROOT / "models" / "mini-lm"
MODULES = {"without": "bench.stack.without_records", "with": "lmaas"}
WORDS = 24  # of a prompt


def records(
    streams: Annotated[int, typer.Option(help="Requests at once.", min=1)] = 16,
    rounds: Rounds = 7,
    seconds: Seconds = 6.0,
    warmup: Warmup = 1.0,
    max_tokens: MaxTokens = 64,
    name: Name = "stack-records",
) -> None:
    ask, level = Ask(Task.GENERATE, max_tokens, ignore_eos=True), Level(streams)
    with TemporaryDirectory(prefix="lmaas-records-") as folder, ExitStack() as stack:
        targets = [LoadTarget(each, _started(each, Path(folder), stack).url) for each in MODULES]
        plan = Plan(targets, [level], ask, Texts(WORDS), Extent(seconds=seconds, warmup=warmup))
        pairs = over_http(plan, rounds)
    report = Report(
        f"{MODEL.name}, {streams} streams, prompts of {WORDS} words, {max_tokens} new tokens, {seconds:g} s"
        f" after {warmup:g} s, {rounds} rounds in turn. Old is without records, new with them.",
        [(TARGET, median(pairs[0].ratios))],
        markdown_table(COLUMNS, rows_of(pairs, 1 - TARGET.limit)),
        {"without": pairs[0].old, "with": pairs[0].new},
    )
    publish(name, report)


def _started(name: str, folder: Path, stack: ExitStack) -> Facade:
    """Ready, with one model. Raises LoadError."""
    models = folder / "models"
    if not models.exists():
        models.mkdir()
        (models / MODEL.name).symlink_to(MODEL, target_is_directory=True)
    facade = Facade(folder / name, free_port(), {"models": str(models)}, module=MODULES[name])
    stack.callback(facade.stop)
    facade.start()
    asyncio.run(_wait(facade))
    return facade


async def _wait(facade: Facade) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        await facade.wait_until_ready(client)
