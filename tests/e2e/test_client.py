"""The Python client on a real appliance: the code of docs/python.md, and both clients side by side."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from client import AsyncClient, Client, RefusedError
from tests.e2e.appliance import Appliance
from tests.e2e.pages import ADDRESS, alike, blocks

LINES = 12  # that the page's code prints, at least
TASK = ("generate", {"prompt": "Once upon a time", "max_tokens": 4})


def test_the_page_s_code_runs(appliance: Appliance, capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("python", "python").replace(ADDRESS, appliance.url), {"__name__": "page"})
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) >= LINES
    for found in ("positive", "entailment", "BookRestaurant", "Boston", "['positive', 'negative']", "done"):
        assert found in printed
    assert "422" in printed or "400" in printed


@pytest.mark.parametrize(
    ("method", "arguments", "parameters"),
    [
        ("generate", ["Once upon a time"], {"max_tokens": 4, "temperature": 0}),
        ("classify", ["A wonderful film."], {}),
        ("infer", ["A man plays.", "Nobody plays."], {}),
        ("nlu", [["Play some jazz"]], {}),
        ("next", ["Once upon a"], {"top_k": 2}),
        ("score", ["Once", [" upon", " a"]], {"normalize": "token"}),
        ("embeddings", [["a cat"]], {}),
        ("models", [], {}),
        ("deployments", [], {}),
    ],
)
def test_both_clients_answer_alike(
    appliance: Appliance, method: str, arguments: list[Any], parameters: dict[str, Any]
) -> None:
    async def asked() -> Any:
        async with AsyncClient(appliance.url) as client:
            return await getattr(client, method)(*arguments, **parameters)

    with Client(appliance.url) as client:
        answer = getattr(client, method)(*arguments, **parameters)
    other = asyncio.run(asked())
    assert alike(answer, other), other
    assert answer


def test_a_task_is_submitted_once_followed_and_cancelled(appliance: Appliance) -> None:
    async def followed() -> None:
        async with AsyncClient(appliance.url) as client:
            task = await client.submit(*TASK, once="async-client")
            assert (await client.submit(*TASK, once="async-client"))["id"] == task["id"]
            assert (await client.wait(task["id"]))["state"] == "done"
            assert (await client.cancel(task["id"]))["state"] == "done"
            assert task["id"] in [each["id"] for each in await client.tasks(type="generate")]

    asyncio.run(followed())
    with Client(appliance.url) as client:
        task = client.submit(*TASK, once="client")
        assert client.submit(*TASK, once="client")["id"] == task["id"]
        events = [event for event, _ in client.follow(task["id"])]
        assert events[-1] == "done"
        assert client.cancel(task["id"])["state"] == "done"
        assert task["id"] in [each["id"] for each in client.tasks(type="generate")]


def test_a_stream_that_is_refused_raises(appliance: Appliance) -> None:
    with Client(appliance.url) as client, pytest.raises(RefusedError, match="no-such-model") as refused:
        next(client.stream("Once", model="no-such-model"))
    assert refused.value.status == 404


def test_both_clients_have_the_same_methods() -> None:
    """Files are for the client without asyncio alone."""
    files = {"upload", "open", "download", "push"}
    public = [
        {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
        for kind in (Client, AsyncClient)
    ]
    assert public[0] - files == public[1]
