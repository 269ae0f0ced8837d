"""Which callers need a key, how long an answer about one is remembered, and what is compared."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import anyio
import pytest

from api.back.store.records import now
from api.caller import Caller, Limits, Scope
from api.config import Settings
from api.errors import StoreUnavailable, Unauthorized, Unavailable
from api.middle.keys import KNOWN_SECONDS, MAX_KNOWN, OUTAGE_SECONDS, KeyRing
from tests.api.fakes import FakeKeys

pytestmark = pytest.mark.anyio
INFERENCE = frozenset({Scope.INFER})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Ring:
    """A KeyRing over keys in memory, with a clock that stands."""

    def __init__(self, *, exist: bool = False, attached: bool = True, **settings: Any) -> None:
        self.clock = Clock()
        self.keys = FakeKeys()
        self.ring = KeyRing(Settings(**settings), exist=exist, clock=self.clock)
        if attached:
            self.ring.attach(self.keys)

    async def ask(self, key: str = "") -> Caller:
        return await self.ring.identify("192.0.2.7", key)

    async def refusal(self, key: str = "") -> str:
        with pytest.raises(Unauthorized) as refused:
            await self.ask(key)
        return refused.value.detail


async def test_on_loopback_a_first_key_closes_the_server() -> None:
    ring = Ring()
    caller = await ring.ask("anything")
    assert (caller.verified, caller.owns_all, caller.limits.max_queued) == (False, True, 250)
    assert caller.fairness_key.startswith("192.0.2.7 ")
    record, key = ring.keys.add("me", INFERENCE)
    ring.clock.now += KNOWN_SECONDS
    assert "lmaas keys create" in await ring.refusal()
    caller = await ring.ask(key)
    assert (caller.key, caller.fairness_key, caller.scopes) == (record.id, record.id, INFERENCE)
    await ring.keys.revoke(record.id)
    ring.clock.now += KNOWN_SECONDS
    assert "was revoked" in await ring.refusal(key)
    assert "needed" in await ring.refusal()


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({}, False),
        ({"host": "::1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "lab.example"}, True),
        ({"host": "0.0.0.0", "access": "open"}, False),
        ({"access": "keys"}, True),
        ({"access": "open"}, False),
    ],
)
async def test_whether_a_key_is_needed(settings: dict[str, Any], needed: bool) -> None:
    assert await Ring(**settings).ring.required() is needed
    assert await Ring(**settings, attached=False).ring.required() is needed


async def test_an_open_server_stays_open() -> None:
    ring = Ring(access="open")
    record, key = ring.keys.add("me", INFERENCE)
    assert not (await ring.ask(key)).verified
    assert await ring.ask(record.id)


async def test_during_the_start_keys_cannot_be_checked() -> None:
    ring = Ring(exist=True, attached=False)
    _, key = ring.keys.add("me")
    await ring.refusal()
    with pytest.raises(Unavailable):
        await ring.ask(key)
    ring.ring.attach(ring.keys)
    assert (await ring.ask(key)).verified


async def test_what_is_no_key_of_this_server_is_refused() -> None:
    ring = Ring(access="keys")
    record, key = ring.keys.add("me")
    other = ring.keys.add("you")[1]
    head, _, secret = key.rpartition("_")
    bad = [secret, head, f"{head}_", key + "x", key[:-1], f"{head}_{other.rpartition('_')[2]}"]
    bad += [f"lmaas_ffffffffffff_{secret}", key.upper(), f" {key}", "Bearer", "é" * 60]
    assert {await ring.refusal(each) for each in bad} == {"the API key is none of this server"}
    assert (await ring.ask(key)).key == record.id


async def test_an_expired_key_is_named_to_its_holder_only() -> None:
    ring = Ring(access="keys")
    record, key = ring.keys.add("me", expires=now() - timedelta(seconds=1))
    assert await ring.refusal(key) == f"the API key {record.id} {record.refusal(now())}"
    assert "expired" not in await ring.refusal(key[:-1] + "x")


async def test_a_record_is_read_once_in_a_while() -> None:
    ring = Ring(access="keys")
    _, key = ring.keys.add("me")
    for _ in range(3):
        await ring.ask(key)
        await ring.refusal("lmaas_ffffffffffff_" + "x" * 43)
    assert ring.keys.reads == 2
    ring.clock.now += KNOWN_SECONDS
    await together(*(ring.ask(key) for _ in range(5)))
    assert ring.keys.reads == 3


async def together(*asked: Awaitable[Caller]) -> None:
    async def wait(one: Awaitable[Caller]) -> None:
        await one

    async with anyio.create_task_group() as group:
        for one in asked:
            group.start_soon(wait, one)


async def test_a_valid_key_outlives_an_outage_of_the_database() -> None:
    ring = Ring(access="keys")
    _, key = ring.keys.add("me")
    await ring.ask(key)
    ring.keys.failure = StoreUnavailable("the disk is gone")
    ring.clock.now += OUTAGE_SECONDS - 1
    assert (await ring.ask(key)).verified
    with pytest.raises(StoreUnavailable):
        await ring.ask(ring.keys.add("you")[1])
    ring.clock.now += KNOWN_SECONDS
    with pytest.raises(StoreUnavailable):
        await ring.ask(key)


async def test_strangers_do_not_fill_the_memory() -> None:
    ring = Ring(access="keys")
    for number in range(MAX_KNOWN + 10):
        await ring.refusal(f"lmaas_{number:012x}_{'x' * 43}")
    assert len(ring.ring._known) == MAX_KNOWN


async def test_limits_of_a_key_come_before_those_of_all() -> None:
    ring = Ring(access="keys", max_queued_tasks_per_caller=7)
    general = await ring.ask(ring.keys.add("me", limits=Limits(max_in_flight=2))[1])
    assert general.limits == Limits(max_queued=7, max_in_flight=2)
    own = await ring.ask(ring.keys.add("you", limits=Limits(max_queued=3))[1])
    assert own.limits == Limits(max_queued=3)
