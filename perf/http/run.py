"""Run a plan: every target at every level, in turn, by one and the same client."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from client.http import Client
from perf.http.ask import Api, Task, requests
from perf.http.figures import Figures, Round
from perf.http.load import ClosedLoop, Load, OpenLoop, intended_times
from perf.http.plan import Level, LoadTarget, Plan
from perf.http.progress import Progress

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one target did at one level."""

    target: LoadTarget
    level: Level
    figures: Figures


def greet(plan: Plan) -> Plan:
    """The plan with what each target serves, found by one request to each. Raises ClientError."""
    return replace(plan, targets=[_greeted(target, plan) for target in plan.targets])


def _greeted(target: LoadTarget, plan: Plan) -> LoadTarget:
    with Client(target.url, key=target.key) as client:
        if target.api is Api.OPENAI and target.model is None:  # other servers than LMaaS insist on a name
            target = replace(target, model=client.call("GET", "/v1/models")["data"][0]["id"])
        answer = _ask_once(client, target, plan)
    facts = [answer["model"]]
    if "version" in answer:
        facts += [f"version {answer['version']}", answer["precision"]]
    return replace(target, serves=" ".join(facts))


def _ask_once(client: Client, target: LoadTarget, plan: Plan) -> dict[str, Any]:
    ask = plan.ask
    if ask.task is Task.GENERATE:
        ask = replace(ask, stream=False, max_tokens=1)
    body = ask.body(next(plan.texts.draw("greeting")), target.api, target.model)
    answer: dict[str, Any] = client.call("POST", ask.path(target.api), json=body)
    return answer


def run(plan: Plan, progress: Progress) -> list[Measurement]:
    """By level, then by target. Raises PlanError."""
    plan.check()
    return in_event_loop(_run(plan, progress))


def in_event_loop(work: Coroutine[Any, Any, Result]) -> Result:
    """On uvloop where it is installed: its reads and writes cost about half of asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


async def _run(plan: Plan, progress: Progress) -> list[Measurement]:
    rounds: dict[tuple[Level, LoadTarget], list[Round]] = {}
    for number in range(plan.rounds):
        for level in plan.levels:
            for target in plan.targets:
                done = await measure(plan, level, target, number, progress)
                rounds.setdefault((level, target), []).append(done)
    return [
        Measurement(target, level, Figures.of(done, plan.ask)) for (level, target), done in rounds.items()
    ]


async def measure(plan: Plan, level: Level, target: LoadTarget, number: int, progress: Progress) -> Round:
    """One level against one target, once. `number` makes the prompts of each round others."""
    load = _load(plan, level, target, seed_of(plan, level, number))
    name = f"{target.name} at {level.label}"
    extent = plan.extent
    seconds = extent.warmup + extent.seconds if extent.requests is None else None
    async with progress.follow(load, name, seconds):
        ran = await load.run()
    done = Round.of(ran, plan.ask, target.api)
    failed = sum(outcome.error is not None for outcome in done.measured)
    progress.say(
        f"{name}: {len(done.measured)} requests, {done.requests_per_second:.1f}/s"
        + (f", {done.tokens_per_second:.0f} tokens/s" if done.tokens_per_second else "")
        + (f", {failed} failed" if failed else "")
    )
    return done


def seed_of(plan: Plan, level: Level, number: int) -> str:
    """What the prompts of one round at one level are drawn by."""
    return f"{plan.seed}/{level.label}/{number}"


def _load(plan: Plan, level: Level, target: LoadTarget, seed: str) -> Load:
    origin, extent = target.origin, plan.extent
    times = intended_times(level.rate, plan.arrivals, seed, extent) if level.rate is not None else None
    sent = requests(
        origin, target.api, target.model, plan.ask, plan.texts, seed, None if times is None else len(times)
    )
    if times is not None:
        return OpenLoop(origin, sent, extent, plan.timeout, times)
    return ClosedLoop(origin, sent, extent, plan.timeout, level.concurrency)
