"""Submitting an asynchronous task, once for each idempotency key of a caller.

The key, and what it was sent with, are kept as long as the task's record. (IETF's draft of the header
Idempotency-Key, section 2; the fingerprint is of the type, the parameters and the callback.)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

from api.back.store.records import TaskRecord
from api.caller import Caller
from api.errors import InvalidInput
from api.middle.job import Job
from api.middle.new_records import new_record
from api.middle.schemas.base import TaskParameters
from api.middle.tasks import TaskManager

IDEMPOTENCY_HEADER = "Idempotency-Key"


async def submit(
    tasks: TaskManager,
    task_type: str,
    parameters: TaskParameters,
    caller: Caller,
    *,
    key: str | None = None,
    callback_url: str | None = None,
) -> TaskRecord:
    """A new task, durable when this returns; or the task that the caller submitted with this key before.

    `callback_url` was checked. Raises as `TaskManager.enqueue` and `Handler.check`; InvalidInput: the
    key came with another type, other parameters or another callback.
    """
    handler = tasks.handlers[task_type]
    caller.require(handler.scope)
    caller.require_model(parameters.model)
    record = new_record(handler, parameters, caller, tasks.queue.worker, asynchronous=True)
    if callback_url is not None:
        record = dataclasses.replace(record, callback_url=callback_url, callback_due=record.created)
    room = tasks.admission.arriving(handler.lane, caller, parameters.cost, parameters.deadline_ms)
    if key is None:
        await handler.check(parameters, caller)
        with room:
            await tasks.queue.add(record)
        return tasks.line_up(Job(record, parameters)).record
    record = dataclasses.replace(
        record,
        idempotency_key=_digest([caller.fairness_key, key]),
        fingerprint=_digest([record.type, record.parameters, callback_url]),
    )
    found = await tasks.store.with_key(record)
    if found is None:  # else it is answered whatever else is waiting
        await handler.check(parameters, caller)
        with room:
            found = await tasks.queue.add_once(record)
    if found.id == record.id:
        return tasks.line_up(Job(record, parameters)).record
    if found.fingerprint != record.fingerprint:
        raise InvalidInput.of(IDEMPOTENCY_HEADER, f"was sent before with another body, for task {found.id}")
    return await tasks.get(found.id)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
