"""One appliance after the other under its load and its faults, and the report."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from bench.chaos.faults import Fault, of_a_small_disk, of_one_facade, of_two_facades
from bench.chaos.load import TASKS, Account, Load
from bench.chaos.services import Postgres, S3Server
from bench.facades import Facade, free_port
from bench.stack.report import Bound, Name, Report, Target, publish
from perf.http.progress import Progress
from perf.report import markdown_table

RECOVERY_SECONDS = 90.0  # in which all four tasks must answer again
OUTCOME_SECONDS = 120.0  # in which the tasks that wait at the end must be over
POLL_SECONDS = 0.1
DISK_BYTES = 2**30
SMALL_DISK = f"size={DISK_BYTES},mode=0700"
SETTINGS = {"probe_interval_seconds": "1", "probe_timeout_seconds": "2", "max_queued_tasks": "20000"}
SETTINGS |= {"max_queued_tasks_per_caller": "20000"}

ACCEPTED = Target("accepted asynchronous tasks", Bound.AT_LEAST, 5000, ".0f")
BROKEN = Target("broken promises", Bound.AT_MOST, 0, ".0f")
RECOVERY = Target("seconds from a fault until all four tasks answer", Bound.AT_MOST, RECOVERY_SECONDS, ".1f")


class Which(str, Enum):
    ALONE = "alone"
    SHARED = "shared"


@dataclass
class Trial:
    """One appliance, with its account and the seconds that each fault took to recover from."""

    name: str
    facades: Sequence[Facade]
    faults: Sequence[Fault]
    account: Account = field(default_factory=Account)
    recoveries: list[tuple[str, float]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def chaos(
    rate: Annotated[float, typer.Option(help="Requests a second, of each of the two kinds.", min=1)] = 17.0,
    calm: Annotated[float, typer.Option(help="Seconds of load before each fault.", min=0)] = 22.0,
    only: Annotated[Which | None, typer.Option(help="One of the two appliances.")] = None,
    name: Name = "chaos",
) -> None:
    trials = asyncio.run(_all([only] if only else list(Which), rate, calm))
    publish(name, _report(trials, rate, calm))
    if any(trial.account.broken for trial in trials):
        raise typer.Exit(1)


async def _all(chosen: Sequence[Which], rate: float, calm: float) -> list[Trial]:
    trials = []
    openers = {Which.ALONE: _alone, Which.SHARED: _shared}
    with tempfile.TemporaryDirectory(prefix="lmaas-chaos-") as folder:
        for which in chosen:
            async with openers[which](Path(folder)) as trial:
                await _try(trial, rate, calm)
                trials.append(trial)
    return trials


@asynccontextmanager
async def _alone(folder: Path) -> AsyncIterator[Trial]:
    """One façade with SQLite, on a disk of its own where that can be had."""
    home = folder / "alone"
    home.mkdir()
    with small_disk(home) as mounted:
        facade = Facade(home, free_port(), SETTINGS)
        faults = of_one_facade(facade) + (of_a_small_disk(facade) if mounted else [])
        trial = Trial("one façade, SQLite", [facade], faults)
        if not mounted:
            trial.skipped.append("a full disk: no file system could be mounted here")
        async with _running(trial.facades):
            yield trial


@asynccontextmanager
async def _shared(folder: Path) -> AsyncIterator[Trial]:
    """Two façades, each with its Triton, over one PostgreSQL and one S3 store."""
    postgres, s3 = Postgres(), S3Server(free_port(), folder / "s3.log")
    async with AsyncExitStack() as stack:
        stack.callback(postgres.close)
        stack.callback(s3.kill)
        os.environ.update(s3.environment)
        settings = {**SETTINGS, "database_url": postgres.create_database(), "blob_url": s3.create_bucket()}
        pair = (
            Facade(folder / "first", free_port(), settings),
            Facade(folder / "second", free_port(), settings),
        )
        trial = Trial("two façades, PostgreSQL and S3", pair, of_two_facades(pair, postgres, s3))
        await stack.enter_async_context(_running(pair))
        yield trial


@asynccontextmanager
async def _running(facades: Sequence[Facade]) -> AsyncIterator[None]:
    """Started one after the other: the first one converts the bundled models."""
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            for facade in facades:
                facade.start()
                await facade.wait_until_ready(client)
        yield
    finally:
        for facade in facades:
            facade.stop()


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small file system in memory at `folder`; False where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", SMALL_DISK, "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def _try(trial: Trial, rate: float, calm: float) -> None:
    say = Progress().say
    load = Load([facade.url for facade in trial.facades], rate, trial.account)
    async with load.running():
        for fault in trial.faults:
            await asyncio.sleep(calm)
            begin = time.monotonic()
            await fault.inflict()
            recovered = await _recovered(trial, load.client, begin)
            trial.recoveries.append((fault.name, recovered))
            say(f"{trial.name}: {fault.name}: {recovered:.1f} s")
        await asyncio.sleep(calm)
    trial.account.broken += [
        f"task {task_id} has no outcome" for task_id in await load.read_all(OUTCOME_SECONDS)
    ]
    await load.read_all(OUTCOME_SECONDS)  # once more: outcomes stay
    await load.client.aclose()


async def _recovered(trial: Trial, client: httpx.AsyncClient, begin: float) -> float:
    """Seconds from `begin` until each façade has answered each task."""
    waiting = [(facade, *task) for facade in trial.facades for task in TASKS]
    while waiting and time.monotonic() - begin < RECOVERY_SECONDS:
        facade, name, body = waiting[0]
        with suppress(httpx.TransportError):
            response = await client.post(f"{facade.url}/v1/{name}", json=body)
            if response.status_code == 200:
                waiting.pop(0)
                continue
        await asyncio.sleep(POLL_SECONDS)
    if waiting:
        trial.account.broken.append(f"not recovered within {RECOVERY_SECONDS:g} s: {waiting[0][1]}")
    return time.monotonic() - begin


def _report(trials: Sequence[Trial], rate: float, calm: float) -> Report:
    accepted = sum(len(trial.account.accepted) for trial in trials)
    broken = [line for trial in trials for line in trial.account.broken]
    recoveries = [(trial.name, name, seconds) for trial in trials for name, seconds in trial.recoveries]
    kinds = [
        (trial.name, kind, what, count)
        for trial in trials
        for kind, counter in (
            ("synchronous", trial.account.synchronous),
            ("asynchronous", trial.account.asynchronous),
        )
        for what, count in counter.most_common()
    ]
    slowest = max(trial.account.slowest for trial in trials)
    tables = [
        markdown_table(
            ("appliance", "fault", "seconds until all four tasks answer"),
            [(appliance, name, f"{seconds:.1f}") for appliance, name, seconds in recoveries],
        ),
        markdown_table(("appliance", "requests", "what became of them", "count"), kinds),
        *(f"Not tried: {line}." for trial in trials for line in trial.skipped),
        *(f"Broken: {line}" for line in broken[:50]),
    ]
    data: dict[str, Any] = {
        "accepted": accepted,
        "broken": broken,
        "recoveries": recoveries,
        "counts": kinds,
        "slowest_seconds": slowest,
    }
    return Report(
        f"{rate:g} requests a second of each kind, {calm:g} s of load before each fault; every task has one"
        f" outcome, read at least twice. The slowest synchronous answer took {slowest:.1f} s.",
        [(ACCEPTED, accepted), (BROKEN, len(broken)), (RECOVERY, max(row[2] for row in recoveries))],
        "\n".join(tables),
        data,
    )
