"""How long it takes to submit a task and to claim one, while many others wait, on a machine that is idle.

Half of those that wait belong to a façade that lives, and half to one that died: claims are for the latter.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import delete, make_url

from api.back.store.database import Database
from api.back.store.records import TaskRecord, TaskState, now
from api.back.store.tables import tasks, workers
from api.back.store.task_queue import TaskQueue
from api.back.store.task_writer import TaskWriter
from api.caller import Caller
from api.middle.handlers.base import Lane
from api.middle.new_records import new_id

COUNTS = (100, 10_000, 100_000)
SAMPLES = 200
FILLED_AT_ONCE = 5_000
LANES = [lane.value for lane in Lane]
LONG = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Row:
    """Milliseconds, each the median and the 95th percentile."""

    waiting: int
    submit: tuple[float, float]
    look: tuple[float, float]  # a claim that finds nothing free
    claim: tuple[float, float]  # of one task


def queue(
    url: Annotated[
        str | None,
        typer.Option(
            help="An empty PostgreSQL database, postgresql://USER@HOST/NAME. Default: SQLite in --folder."
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where SQLite writes. Default: a temporary folder.")
    ] = None,
    counts: Annotated[list[int] | None, typer.Option("--count", help="Tasks that wait.")] = None,
    samples: Annotated[int, typer.Option(min=2, help="Measurements of each kind.")] = SAMPLES,
) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        place = url or f"sqlite+aiosqlite:///{temporary}/queue.db"
        rows = asyncio.run(measure(place, counts or list(COUNTS), samples))
    name = make_url(place).get_backend_name()
    table = Table("waiting", "submit, ms", "look, ms", "claim, ms", title=f"{name}: median / 95th percentile")
    for row in rows:
        cells = (f"{median:.2f} / {late:.2f}" for median, late in (row.submit, row.look, row.claim))
        table.add_row(f"{row.waiting:,}", *cells)
    Console().print(table)


async def measure(url: str, counts: list[int], samples: int) -> list[Row]:
    async with Database.open(url) as database, TaskWriter.open(database) as writer:
        return [await _measure(database, writer, count, samples) for count in counts]


async def _measure(database: Database, writer: TaskWriter, count: int, samples: int) -> Row:
    await _empty(database)
    living = TaskQueue(database, writer, "living", lease=LONG)
    dead = TaskQueue(database, writer, "dead", lease=LONG)
    other = TaskQueue(database, writer, "other", lease=LONG)
    for worker in (living, dead, other):
        await worker.extend()
    await _fill(living, count // 2)
    await _fill(dead, count - count // 2 + samples)
    submit = await _timed(samples, lambda: living.add(_waiting(living)))
    look = await _timed(samples, lambda: other.claim(LANES, 1))
    await TaskQueue(database, writer, "dead", lease=-LONG).extend()
    claim = await _timed(samples, lambda: other.claim(LANES, 1))
    return Row(count, submit, look, claim)


async def _empty(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(delete(tasks))
        await connection.execute(delete(workers))


async def _fill(worker: TaskQueue, count: int) -> None:
    for begin in range(0, count, FILLED_AT_ONCE):
        for _ in range(min(FILLED_AT_ONCE, count - begin)):
            worker.update(_waiting(worker))
        await worker.flush()


def _waiting(worker: TaskQueue) -> TaskRecord:
    record = TaskRecord(
        new_id(),
        "generate",
        TaskState.QUEUED,
        True,
        Caller("192.0.2.1"),
        None,
        {"prompt": "x" * 200},
        attempt=1,
    )
    return replace(record, owner=worker.worker, created=now())


async def _timed(samples: int, call: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    found = []
    for _ in range(samples):
        begin = time.perf_counter()
        await call()
        found.append((time.perf_counter() - begin) * 1000)
    return statistics.median(found), statistics.quantiles(found, n=20)[-1]
