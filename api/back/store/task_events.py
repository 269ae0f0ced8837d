"""What tasks report while they run, kept for followers at other façades: some, and for some time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, and_, or_, select
from sqlalchemy.sql import Select

from api.back.store.records import now
from api.back.store.tables import task_events

MAX_BYTES = 256 * 1024  # of the events of one task; later ones are not kept
MAX_WAITING = 10_000  # events of all tasks, while the database is away
MAX_COUNTED = 10_000  # tasks
KEPT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """`number` counts the events of one attempt of the task, from 0 on."""

    attempt: int
    number: int
    name: str
    data: dict[str, Any]


class EventBuffer:
    """Events on their way to the database: those of one task that wait together become one row."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, int], list[tuple[int, str]]] = {}
        self._num_waiting = 0
        self._sizes: Counter[str] = Counter()  # bytes by task

    def put(self, task_id: str, event: StoredEvent) -> bool:
        """False: there is no room for it."""
        text = json.dumps([event.name, event.data], ensure_ascii=False)
        if self._sizes[task_id] + len(text) > MAX_BYTES or self._num_waiting >= MAX_WAITING:
            return False
        self._sizes[task_id] += len(text)
        if len(self._sizes) > MAX_COUNTED:
            del self._sizes[next(iter(self._sizes))]
        self._waiting.setdefault((task_id, event.attempt), []).append((event.number, text))
        self._num_waiting += 1
        return True

    def forget(self, task_id: str) -> None:
        """The task is over."""
        del self._sizes[task_id]

    def take(self) -> list[dict[str, Any]]:
        """Rows of all that waits."""
        moment = now()
        rows = [
            {
                "task_id": task_id,
                "attempt": attempt,
                "number": events[0][0],
                "events": f"[{','.join(text for _, text in events)}]",
                "created": moment,
            }
            for (task_id, attempt), events in self._waiting.items()
        ]
        self._waiting.clear()
        self._num_waiting = 0
        return rows


def events_from(task_id: str, attempt: int, number: int) -> Select[Any]:
    """The rows with a task's events from one on."""
    later = and_(task_events.c.attempt == attempt, task_events.c.number >= number)
    return (
        select(task_events)
        .where(task_events.c.task_id == task_id, or_(task_events.c.attempt > attempt, later))
        .order_by(task_events.c.attempt, task_events.c.number)
    )


def events_of(rows: Sequence[Row[Any]]) -> list[StoredEvent]:
    return [
        StoredEvent(row.attempt, row.number + place, name, data)
        for row in rows
        for place, (name, data) in enumerate(json.loads(row.events))
    ]


def outdated(moment: datetime) -> Any:
    return task_events.c.created < moment - KEPT
