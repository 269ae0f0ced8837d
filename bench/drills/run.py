"""One drill after the other, and the report."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from bench.chaos.run import Which, small_disk
from bench.chaos.services import Postgres
from bench.drills.alone import ALONE, FULL_DISK
from bench.drills.shared import SHARED
from bench.drills.site import Drill, Site
from bench.drills.watch import Watch
from bench.stack.report import Bound, Name, Report, Target, publish
from perf.errors import LoadError
from perf.http.progress import Progress
from perf.report import markdown_table

HELD = Target("drills that did not end as the runbook says", Bound.AT_MOST, 0, ".0f")


@dataclass
class Outcome:
    appliance: str
    drill: str
    seconds: float | None = None
    failed: dict[str, int] = field(default_factory=dict)
    said: Sequence[str] = ()
    problem: str = ""


def drills(
    only: Annotated[Which | None, typer.Option(help="One of the two appliances.")] = None,
    drill: Annotated[str, typer.Option(help="Those alone whose names have this in them.")] = "",
    name: Name = "drills",
) -> None:
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="lmaas-drills-") as folder:
        if only is not Which.SHARED:
            home = Path(folder) / "alone"
            home.mkdir()
            outcomes += asyncio.run(_alone(home, drill))
        if only is not Which.ALONE:
            outcomes += asyncio.run(_shared(Path(folder) / "shared", drill))
    publish(name, _report(outcomes))
    if any(outcome.problem for outcome in outcomes):
        raise typer.Exit(1)


async def _alone(home: Path, part: str) -> list[Outcome]:
    with small_disk(home) as mounted:
        chosen = {name: each for name, each in ALONE.items() if mounted or name != FULL_DISK}
        return await _try_all("one façade, SQLite", Site(home), _with(chosen, part))


async def _shared(home: Path, part: str) -> list[Outcome]:
    with _postgres() as postgres:
        site = Site(home, {"facades": "2", "database_url": postgres.create_database()}, postgres)
        return await _try_all("two façades, PostgreSQL", site, _with(SHARED, part))


def _with(drills_by_name: Mapping[str, Drill], part: str) -> Mapping[str, Drill]:
    return {name: each for name, each in drills_by_name.items() if part in name}


@contextmanager
def _postgres() -> Iterator[Postgres]:
    postgres = Postgres()
    try:
        yield postgres
    finally:
        postgres.close()


async def _try_all(appliance: str, site: Site, chosen: Mapping[str, Drill]) -> list[Outcome]:
    if not chosen:
        return []
    say, outcomes = Progress().say, []
    try:
        await site.start()
        for name, each in chosen.items():
            outcome = Outcome(appliance, name)
            outcomes.append(outcome)
            await _try(site, each, outcome)
            found = "" if outcome.seconds is None else f"{outcome.seconds:.1f} s"
            say(f"{appliance}: {name}: {outcome.problem or found or 'as it should be'}")
    finally:
        await asyncio.to_thread(site.stop)
    return outcomes


async def _try(site: Site, drill: Drill, outcome: Outcome) -> None:
    site.watch = Watch(site.facade.url)
    try:
        await site.ready()
        async with site.watch.running():
            await asyncio.sleep(1.0)  # all is well
            begin = time.monotonic()
            outcome.seconds = await drill(site)
            if outcome.seconds is None:
                outcome.seconds = await site.watch.recovery(begin)
    except (LoadError, OSError, TimeoutError, asyncio.TimeoutError) as error:
        outcome.problem = str(error) or type(error).__name__
    outcome.failed, outcome.said = site.watch.failed, site.watch.said


def _report(outcomes: Sequence[Outcome]) -> Report:
    rows = [
        (
            each.appliance,
            each.drill,
            "" if each.seconds is None else f"{each.seconds:.1f}",
            ", ".join(f"{count} × {answer}" for answer, count in each.failed.items()) or "none",
            "; ".join(each.said[:4]).replace("|", "/") or "nothing",
        )
        for each in outcomes
    ]
    header = ("appliance", "drill", "s", "bad answers", "/health/ready said")
    problems = [f"{each.drill}: {each.problem}" for each in outcomes if each.problem]
    return Report(
        "Each drill once; the three loops ask every 0.2 s.",
        [(HELD, len(problems))],
        "\n".join([markdown_table(header, rows), *problems]),
        {"drills": [each.__dict__ for each in outcomes]},
    )
