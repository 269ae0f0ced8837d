"""The record of a new task.

The record of a synchronous task keeps the parameters with long texts cut, and no result. The record of an
asynchronous task keeps the result, and the parameters whole: a later run or another façade may take it up.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from api.back.store.records import TaskRecord, TaskState
from api.caller import Caller
from api.middle.handlers.base import Handler
from api.middle.schemas.base import TaskParameters

LONGEST_TEXT = 200  # characters of a text that a synchronous task's record keeps
LONGEST_LIST = 8  # items likewise


def new_record(
    handler: Handler[Any, Any],
    parameters: TaskParameters,
    caller: Caller,
    worker: str,
    *,
    asynchronous: bool = False,
) -> TaskRecord:
    """It belongs to `worker`, this façade, from the start."""
    if asynchronous:
        kept = parameters.model_dump(mode="json", exclude_unset=True)
    else:
        kept = shortened(parameters.model_dump(exclude_unset=True))
    return TaskRecord(
        id=new_id(),
        type=handler.task_type,
        state=TaskState.QUEUED,
        asynchronous=asynchronous,
        caller=caller,
        model=parameters.model,
        parameters=kept,
        lane=handler.lane.value,
        owner=worker,
        attempt=1,
    )


def new_id() -> str:
    """Unique, and in order of time."""
    return f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(6)}"


def shortened(value: Any) -> Any:
    """Parameters with long texts and lists cut, saying by how much."""
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"{value[:LONGEST_TEXT]}… ({len(value)} characters)"
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        kept = [shortened(item) for item in value[:LONGEST_LIST]]
        return kept if len(value) <= LONGEST_LIST else [*kept, f"… ({len(value)} items)"]
    return value
