"""The one table from errors to HTTP."""

from __future__ import annotations

import inspect
from http import HTTPStatus
from typing import Any

import pytest
from starlette.testclient import TestClient

from api import errors
from api.back.store.records import TaskError
from api.errors import ApiError, InvalidInput, RetryLater
from api.front import problems
from api.front.calls import CallerLeft
from api.front.problems import PROBLEMS, problem_of
from tests.api.fakes import FakeBack


def made(kind: type[ApiError]) -> ApiError:
    if issubclass(kind, InvalidInput):
        return kind.of("text", "too long")
    return kind("a sentence")


def family(module: Any) -> list[type[ApiError]]:
    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, ApiError)]
    return [
        kind for kind in kinds if kind.__module__ == module.__name__ and kind not in (ApiError, RetryLater)
    ]


@pytest.mark.parametrize("kind", [*family(errors), *family(problems)])
def test_every_error_has_its_place(client: TestClient, back: FakeBack, kind: type[ApiError]) -> None:
    back.cluster.classify_error = made(kind)
    answer = client.post("/v1/classify", json={"input": "a"})
    expected = PROBLEMS[kind.slug]
    assert (answer.status_code, answer.json()["title"]) == (expected.status, expected.title)
    assert answer.json()["type"] == f"/docs#{kind.slug}"
    assert ("retry-after" in answer.headers) is issubclass(kind, RetryLater)
    assert f'id="{kind.slug}"' in client.get("/docs").text


@pytest.mark.parametrize("kind", [*family(errors), CallerLeft])
def test_a_task_s_error_can_be_shown(kind: type[ApiError]) -> None:
    error = made(kind) if kind is not CallerLeft else CallerLeft()
    kept = TaskError.of(error)
    problem = problem_of(kept.slug, kept.detail, kept.errors)
    assert problem.detail == str(error)
    assert problem.status == PROBLEMS[kind.slug].status


def test_titles_are_those_of_http() -> None:
    """As the standard library has them, but for what RFC 9110 renamed later."""
    renamed = {413: "Content Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable"}
    renamed[422] = "Unprocessable Content"
    for kind in PROBLEMS.values():
        assert kind.title == renamed.get(kind.status, HTTPStatus(kind.status).phrase)
