"""Tasks as the API shows and takes them."""

from __future__ import annotations

import functools
import operator
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, RootModel, create_model

from api.back.store.records import TaskRecord
from api.front.problems import Problem, problem_of
from api.middle.handlers import TASK_TYPES, Handler
from api.middle.outgoing import LONGEST_URL
from api.middle.schemas.base import Schema

StateName = Literal["queued", "running", "done", "failed", "cancelled", "expired"]

CallbackUrl = Annotated[
    str,
    Field(
        max_length=LONGEST_URL,
        description="Is sent a signed message (Standard Webhooks) when the task is over.",
    ),
]


def _submission(handler: type[Handler[Any, Any]]) -> type[Schema]:
    """The schema of one task type's submission: `parameters` are checked as on the type's own route."""
    fields: dict[str, Any] = {
        "type": (Literal[handler.task_type], ...),
        "parameters": (handler.parameters, ...),
        "callback_url": (CallbackUrl | None, None),
    }
    return create_model(f"Submit{handler.task_type.capitalize()}", __base__=Schema, **fields)


_Submission: Any = functools.reduce(operator.or_, (_submission(handler) for handler in TASK_TYPES))


class TaskSubmission(RootModel[Annotated[_Submission, Field(discriminator="type")]]):
    """A task type with its parameters."""


class TaskView(BaseModel):
    id: str
    object: Literal["task"] = "task"
    type: str
    state: StateName
    asynchronous: bool
    model: str | None = Field(description="As asked for; null: the default.")
    caller: str = Field(description="Its address.")
    key: str | None = Field(description="Id of the caller's API key; null where none was needed.")
    parameters: dict[str, Any] = Field(description="Of a synchronous task: long texts are cut.")
    result: dict[str, Any] | None = Field(description="Of an asynchronous task that is done.")
    error: Problem | None
    attempts: int = Field(description="How often it was begun; more than once after failures that pass.")
    callback_url: str | None
    created: datetime
    started: datetime | None
    finished: datetime | None

    @classmethod
    def of(cls, record: TaskRecord) -> TaskView:
        kept = record.error
        return cls(
            id=record.id,
            type=record.type,
            state=record.state.value,
            asynchronous=record.asynchronous,
            model=record.model,
            caller=record.caller.address,
            key=record.caller.key if record.caller.verified else None,
            parameters=record.parameters,
            result=record.result,
            error=problem_of(kept.slug, kept.detail, kept.errors) if kept else None,
            attempts=record.runs,
            callback_url=record.callback_url,
            created=record.created,
            started=record.started,
            finished=record.finished,
        )


class TaskFilter(Schema):
    type: str | None = Field(default=None, max_length=64, description="Only tasks of this type.")
    state: StateName | None = Field(default=None, description="Only tasks in this state.")
    limit: int = Field(default=50, ge=1, le=500, description="The most tasks to return.")
    before: str | None = Field(default=None, max_length=64, description="Id of the task to go on after.")


class Tasks(BaseModel):
    object: Literal["list"] = "list"
    data: list[TaskView] = Field(description="Newest first.")
    has_more: bool
