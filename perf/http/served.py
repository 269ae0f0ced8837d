"""One request to every target before the load: what answers there, and whether it takes what is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cli.client import Client, connect
from perf.http.ask import Api, Task
from perf.http.plan import Plan, Target


def greet(plan: Plan) -> Plan:
    """The plan with each target's model filled in. A target that refuses ends the command with one line."""
    return replace(plan, targets=[_greet(target, plan) for target in plan.targets])


def _greet(target: Target, plan: Plan) -> Target:
    with connect(target.url) as client:
        if target.api is Api.OPENAI and target.model is None:  # other servers than LMaaS insist on a name
            target = replace(target, model=client.call("GET", "/v1/models")["data"][0]["id"])
        answer = _ask_once(client, target, plan)
    facts = [answer["model"]]
    if "version" in answer:
        facts += [f"version {answer['version']}", answer["precision"]]
    return replace(target, serves=" ".join(facts))


def _ask_once(client: Client, target: Target, plan: Plan) -> dict[str, Any]:
    ask = plan.ask
    if ask.task is Task.GENERATE:
        ask = replace(ask, stream=False, max_tokens=1)
    body = ask.body(next(plan.texts.draw("greeting")), target.api, target.model)
    answer: dict[str, Any] = client.call("POST", ask.path(target.api), json=body)
    return answer
