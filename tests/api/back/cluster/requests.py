"""Requests as the tests send them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio
import psutil

from api.back.backend import Backend
from api.back.cluster.records import Target
from api.back.settings import BackSettings
from runtime.contract import Kind, Operation

POLL_SECONDS = 0.01


async def deploy_all(backend: Backend) -> None:
    """tiny/1, tiny/2 and head/1, side by side."""
    async with anyio.create_task_group() as group:
        for model, version in (("tiny", 1), ("tiny", 2), ("head", 1)):
            group.start_soon(backend.cluster.deploy, model, version, "auto")


async def complete(backend: Backend, target: Target, *, stream: bool = True, **parameters: Any) -> str:
    """The text of a greedy completion of 8 tokens."""
    chosen = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True, **parameters}
    answer = backend.cluster.generate(
        target, text="the little cat", parameters=chosen, operation=Operation.GENERATE, stream=stream
    )
    return "".join([choice["text"] async for details in answer for choice in details["choices"]])


def language_model(backend: Backend, version: int | str | None = None) -> Target:
    return backend.cluster.choose("tiny", version, Kind.LM)


async def until(condition: Callable[[], object], what: str, seconds: float = 10.0) -> float:
    """Wait until `condition` holds; returns the seconds it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, f"not within {seconds} s: {what}"
        await anyio.sleep(POLL_SECONDS)
    return time.monotonic() - begin


def stub_pids(settings: BackSettings, model: str, version: int) -> list[int]:
    """The living processes that run a model version."""
    script = str(settings.repository.absolute() / model / str(version) / "model.py")
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [])[1:2] == [script]
    ]


def processes(settings: BackSettings) -> list[psutil.Process]:
    """Every process whose command line names this home's Triton: the guard, the server and its stubs."""
    triton = str(settings.repository.absolute())
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(triton in argument for argument in process.info["cmdline"] or [])
    ]
