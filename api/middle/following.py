"""Following a task that another façade runs, or ran: what it reported, from the database."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from api.back.store.records import TaskRecord
from api.middle.job import Event
from api.middle.tasks import TaskManager

BEGUN_ANEW = "restarted"  # after it, the events of another attempt follow, from the first one on


async def follow(tasks: TaskManager, record: TaskRecord, silence: float) -> AsyncIterator[Event | None]:
    """Its events until it has its outcome, or this façade stops. None: nothing came for `silence` seconds."""
    attempt = number = 0
    last = time.monotonic()
    with tasks.store.changes(record.id) as noticed:
        while not tasks.stopping:
            record = await tasks.get(record.id)  # before its events: where an outcome is, all of them are
            for event in await tasks.store.events(record.id, attempt, number):
                if attempt and event.attempt != attempt:
                    yield Event(BEGUN_ANEW, {"attempt": event.attempt})
                attempt, number = event.attempt, event.number + 1
                last = time.monotonic()
                yield Event(event.name, event.data)
            if record.state.finished:
                break
            if time.monotonic() - last >= silence:
                last = time.monotonic()
                yield None
            await noticed.wait(min(tasks.store.poll_seconds, silence))
