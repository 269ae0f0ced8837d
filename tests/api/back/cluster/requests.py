"""Requests as the tests send them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import anyio
import psutil

from api.back.backend import Backend
from api.back.cluster.records import Target
from api.back.cluster.triton_client import TritonClient
from api.back.settings import BackSettings
from api.errors import Unavailable
from runtime.contract import Kind, Operation
from runtime.messages import Answer, Generated

POLL_SECONDS = 0.01


def client(backend: Backend, number: int = 0) -> TritonClient:
    """The client of a server of the pool."""
    return backend.cluster._pool.servers[number].client


async def deploy_all(backend: Backend) -> None:
    """tiny/1, tiny/2 and head/1, side by side."""
    async with anyio.create_task_group() as group:
        for model, version in (("tiny", 1), ("tiny", 2), ("head", 1)):
            group.start_soon(backend.cluster.deploy, model, version, "auto")


async def undeploy_all(backend: Backend) -> None:
    """Side by side: Triton takes a second to unload a model."""
    async with anyio.create_task_group() as group:
        for record in backend.cluster.deployments():
            group.start_soon(backend.cluster.undeploy, record.id)


async def complete(backend: Backend, target: Target, *, stream: bool = True, **parameters: Any) -> str:
    """The text of a greedy completion of 8 tokens."""
    chosen = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True, **parameters}
    answer = backend.cluster.generate(
        target, prompt="the little cat", parameters=chosen, operation=Operation.GENERATE, stream=stream
    )
    return "".join(
        [choice.text async for piece in answer if isinstance(piece, Generated) for choice in piece.choices]
    )


async def outcome(stream: AsyncGenerator[Answer, None]) -> int | type[Unavailable]:
    """Of the rest of a stream that has begun: how many choices finished, or its one error."""
    finished = 0
    try:
        async for piece in stream:
            assert isinstance(piece, Generated)
            finished += sum(choice.finish_reason is not None for choice in piece.choices)
    except Unavailable as error:
        return type(error)
    return finished


def language_model(backend: Backend, version: int | str | None = None) -> Target:
    return backend.cluster.choose("tiny", version, Kind.LM)


async def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> float:
    """Wait until `condition` holds; returns the seconds it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, f"not within {seconds} s: {what}"
        await anyio.sleep(POLL_SECONDS)
    return time.monotonic() - begin


def stub_pids(settings: BackSettings, model: str, version: int) -> list[int]:
    """The living processes that run a model version, on any server."""
    script = f"/repository/{model}/{version}/model.py"
    return [
        process.pid
        for process in processes(settings)
        if any(part.endswith(script) for part in (process.info["cmdline"] or [])[1:2])
    ]


def processes(settings: BackSettings) -> list[psutil.Process]:
    """Every process that runs in this home's Triton folder: the guard, the server and its stubs."""
    triton = str(settings.triton.resolve())
    return [process for process in psutil.process_iter(["cwd", "cmdline"]) if process.info["cwd"] == triton]
