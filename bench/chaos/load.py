"""A steady load of all four tasks, synchronous and asynchronous, that keeps account of every answer."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

TIMEOUT_SECONDS = 60.0
RECONNECT_SECONDS = 60.0  # a caller whose façade is away asks again for this time
RECONNECT_PAUSE = 0.2
FINAL = ("done", "failed", "cancelled", "expired")
TASKS: Sequence[tuple[str, dict[str, Any]]] = (
    ("generate", {"prompt": "Once upon a time", "max_tokens": 24}),
    ("classify", {"input": "a fine film"}),
    ("infer", {"premise": "A man sleeps.", "hypothesis": "A man rests."}),
    ("nlu", {"input": "play some jazz"}),
    ("generate", {"prompt": "The little dog", "max_tokens": 48, "stream": True}),
)


class Account:
    """What became of every request. Counters by the words that the report uses."""

    def __init__(self) -> None:
        self.synchronous: Counter[str] = Counter()
        self.asynchronous: Counter[str] = Counter()
        self.broken: list[str] = []  # what must not happen, in words
        self.accepted: dict[str, float] = {}  # ids of tasks, and when
        self.outcomes: dict[str, str] = {}  # the first outcome that was read of a task
        self.slowest = 0.0  # seconds of a synchronous request

    def read(self, record: dict[str, Any]) -> bool:
        """Compare a task's record with what was read before. True where it has its outcome."""
        if record["state"] not in FINAL:
            if record["id"] in self.outcomes:
                self.broken.append(f"task {record['id']} was over, and is {record['state']} now")
            return False
        content = json.dumps([record["state"], record.get("result"), record.get("error")], sort_keys=True)
        digest = f"{record['state']} {hashlib.sha256(content.encode()).hexdigest()}"
        first = self.outcomes.setdefault(record["id"], digest)
        if first != digest:
            self.broken.append(f"task {record['id']} has two outcomes")
        return True


class Load:
    """Requests go to the façades in turn, at a fixed rate, whether earlier ones were answered or not."""

    def __init__(self, urls: Sequence[str], rate: float, account: Account) -> None:
        """`rate` in requests a second, of each of the two kinds."""
        self.account = account
        self._urls = itertools.cycle(urls)
        self._rate = rate
        self._random = random.Random(0)
        self._under_way: set[asyncio.Task[None]] = set()
        limits = httpx.Limits(max_connections=500, max_keepalive_connections=100)
        self.client = httpx.AsyncClient(timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load for as long as the block lasts; when it ends, every request has been answered."""
        producers = [asyncio.create_task(self._produce(kind)) for kind in (self._ask, self._submit)]
        producers.append(asyncio.create_task(self._reread()))
        try:
            yield
        finally:
            for producer in producers:
                producer.cancel()
            await asyncio.gather(*producers, return_exceptions=True)
            if self._under_way:
                await asyncio.wait(self._under_way)

    async def _produce(self, kind: Any) -> None:
        for number in itertools.count():
            task = asyncio.create_task(kind(*TASKS[number % len(TASKS)]))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            await asyncio.sleep(self._random.expovariate(self._rate))

    async def _ask(self, name: str, body: dict[str, Any]) -> None:
        """One synchronous request; a caller whose connection is cut asks once more, elsewhere."""
        begin = time.monotonic()
        while True:
            try:
                response = await self.client.post(f"{next(self._urls)}/v1/{name}", json=body)
            except httpx.TimeoutException:
                self.account.broken.append(f"{name} had no answer within {TIMEOUT_SECONDS:g} s")
                return
            except httpx.TransportError:
                self.account.synchronous["cut or not connected, asked again"] += 1
                if time.monotonic() - begin > RECONNECT_SECONDS:
                    self.account.broken.append(f"{name} reached no façade within {RECONNECT_SECONDS:g} s")
                    return
                await asyncio.sleep(RECONNECT_PAUSE)
                continue
            break
        self.account.slowest = max(self.account.slowest, time.monotonic() - begin)
        self._judge(name, response, streamed=body.get("stream", False))

    def _judge(self, name: str, response: httpx.Response, *, streamed: bool) -> None:
        status = response.status_code
        if streamed and status == 200 and "event: error" in response.text:
            self.account.synchronous["streams that ended with an error event"] += 1
        elif streamed and status == 200 and '"usage":{' not in response.text:  # the last event has it
            self.account.broken.append(f"a stream stopped without an end: {response.text[-200:]!r}")
        elif status < 400:
            self.account.synchronous["answered"] += 1
        elif "Retry-After" in response.headers:
            self.account.synchronous[f"{status} with Retry-After"] += 1
        else:
            self.account.broken.append(f"{name}: {status} without Retry-After: {response.text[:200]}")

    async def _submit(self, name: str, body: dict[str, Any]) -> None:
        """One asynchronous task."""
        parameters = {key: value for key, value in body.items() if key != "stream"}
        try:
            response = await self.client.post(
                f"{next(self._urls)}/v1/tasks", json={"type": name, "parameters": parameters}
            )
        except httpx.TransportError:
            self.account.asynchronous["no answer: whether it was accepted is not known"] += 1
            return
        if response.status_code == 202:
            self.account.asynchronous["accepted"] += 1
            self.account.accepted[response.json()["id"]] = time.monotonic()
        elif "Retry-After" in response.headers:
            self.account.asynchronous[f"{response.status_code} with Retry-After"] += 1
        else:
            self.account.broken.append(f"a submit: {response.status_code}: {response.text[:200]}")

    async def _reread(self) -> None:
        """Read records all the time, also those that are over: an outcome must stay what it was."""
        while True:
            if self.account.accepted:
                await self.read_one(self._random.choice(list(self.account.accepted)))
            await asyncio.sleep(1 / self._rate)

    async def read_one(self, task_id: str) -> bool:
        """True where the task has its outcome."""
        try:
            response = await self.client.get(f"{next(self._urls)}/v1/tasks/{task_id}")
        except httpx.TransportError:
            return False
        if response.status_code == 404:
            self.account.broken.append(f"task {task_id} was accepted, and is not there")
            return True
        return response.status_code == 200 and self.account.read(response.json())

    async def read_all(self, seconds: float) -> list[str]:
        """Wait for the outcome of every accepted task; returns the ids of those that have none."""
        end = time.monotonic() + seconds
        open_tasks = list(self.account.accepted)
        while open_tasks and time.monotonic() < end:
            open_tasks = [task_id for task_id in open_tasks if not await self.read_one(task_id)]
            await asyncio.sleep(RECONNECT_PAUSE)
        return open_tasks
