"""The account of the chaos load: what breaks a promise, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from bench.chaos.load import Account, Load

pytestmark = pytest.mark.anyio
RECORD = {"id": "t", "state": "done", "result": {"label": "good"}, "error": None}
STREAM = 'data: {"choices":[]}\n\n'


def load(answer: Callable[[httpx.Request], httpx.Response], rate: float = 200.0) -> Load:
    found = Load(["http://first", "http://second"], rate, Account())
    found.client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return found


def test_an_outcome_that_stays_breaks_nothing() -> None:
    account = Account()
    assert not account.read({**RECORD, "state": "running", "result": None})
    assert account.read(RECORD)
    assert account.read(dict(RECORD))
    assert account.broken == []


@pytest.mark.parametrize(
    "later", [{"state": "running"}, {"state": "failed"}, {"result": {"label": "bad"}}, {"error": {"a": 1}}]
)
def test_an_outcome_that_changes_is_broken(later: dict[str, Any]) -> None:
    account = Account()
    account.read(RECORD)
    account.read({**RECORD, **later})
    assert len(account.broken) == 1


@pytest.mark.parametrize(
    ("response", "broken"),
    [
        (httpx.Response(200, text="{}"), False),
        (httpx.Response(503, headers={"Retry-After": "2"}), False),
        (httpx.Response(429, headers={"Retry-After": "1"}), False),
        (httpx.Response(503), True),
        (httpx.Response(500, text="a defect"), True),
        (httpx.Response(200, text=STREAM + 'data: {"usage":{"total_tokens":3}}\n\n'), False),
        (httpx.Response(200, text=STREAM + "event: error\ndata: {}\n\n"), False),
        (httpx.Response(200, text=STREAM), True),
    ],
)
async def test_what_an_answer_must_have(response: httpx.Response, broken: bool) -> None:
    found = load(lambda _: response)
    streamed = response.text.startswith("data")
    await found._ask("generate", {"prompt": "a", "stream": streamed})
    assert bool(found.account.broken) is broken
    assert found.account.synchronous.total() == (not broken)


async def test_a_caller_whose_connection_is_cut_asks_the_other_facade() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if len(asked) == 1:
            raise httpx.RemoteProtocolError("cut")
        return httpx.Response(200, text="{}")

    found = load(answer)
    await found._ask("classify", {"input": "a"})
    assert asked == ["first", "second"]
    assert found.account.synchronous["answered"] == 1
    assert found.account.broken == []


async def test_a_task_that_is_lost_or_never_ends_is_found() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            number = found.account.asynchronous["accepted"]
            return httpx.Response(202, json={"id": str(number)})
        task_id = request.url.path.rpartition("/")[2]
        if task_id == "1":
            return httpx.Response(404)
        state = "running" if task_id == "2" else "done"
        return httpx.Response(200, json={**RECORD, "id": task_id, "state": state})

    found = load(answer)
    for _ in range(4):
        await found._submit("classify", {"input": "a"})
    assert await found.read_all(0.5) == ["2"]
    assert found.account.broken == ["task 1 was accepted, and is not there"]


async def test_the_load_ends_when_all_its_requests_have_ended() -> None:
    begun = ended = 0
    many = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal begun, ended
        begun += 1
        if begun >= 20:
            many.set()
        await asyncio.sleep(0.05)
        ended += 1
        return httpx.Response(
            202 if request.url.path.endswith("tasks") else 200, json={**RECORD, "usage": {}}
        )

    found = load(answer)  # type: ignore[arg-type]
    async with found.running():
        await many.wait()
    reading = 1  # at most one reader of records is stopped
    assert begun - ended <= reading
