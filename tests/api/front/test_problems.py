"""The one table from errors to HTTP."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from starlette.testclient import TestClient

from api import errors
from api.errors import ApiError, InvalidInput, RetryLater
from api.front import problems
from api.front.calls import CallerLeft
from api.front.problems import PROBLEMS, problem_of
from api.middle.tasks import error_record
from tests.api.fakes import FakeBack


def made(kind: type[ApiError]) -> ApiError:
    return InvalidInput.of("text", "too long") if kind is InvalidInput else kind("a sentence")


def family(module: Any) -> list[type[ApiError]]:
    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, ApiError)]
    return [
        kind for kind in kinds if kind.__module__ == module.__name__ and kind not in (ApiError, RetryLater)
    ]


@pytest.mark.parametrize("kind", [*family(errors), *family(problems)])
def test_every_error_has_its_place(client: TestClient, back: FakeBack, kind: type[ApiError]) -> None:
    back.cluster.classify_error = made(kind)
    answer = client.post("/v1/classify", json={"input": "a"})
    expected = PROBLEMS[kind.__name__]
    assert (answer.status_code, answer.json()["title"]) == (expected.status, expected.title)
    assert answer.json()["type"] == f"/docs#{expected.slug}"
    assert ("retry-after" in answer.headers) is issubclass(kind, RetryLater)
    assert f'id="{expected.slug}"' in client.get("/docs").text


@pytest.mark.parametrize("kind", [*family(errors), CallerLeft])
def test_a_task_s_error_can_be_shown(kind: type[ApiError]) -> None:
    error = made(kind) if kind is not CallerLeft else CallerLeft()
    kept = error_record(error)
    problem = problem_of(kept["error"], kept["detail"], kept.get("errors"))
    assert problem.detail == str(error)
    assert problem.status == PROBLEMS[kept["error"]].status
