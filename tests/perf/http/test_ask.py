"""Bodies that the routes take, and plans that make sense."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from api.front.schemas.openai import CompletionRequest
from api.middle.schemas.base import TaskParameters
from api.middle.schemas.generate import GenerateParameters
from api.middle.schemas.labels import ClassifyParameters, InferParameters, NluParameters
from perf.errors import PlanError
from perf.http.ask import POOL, Api, Ask, Task, requests
from perf.http.load import Extent
from perf.http.plan import Level, LoadTarget, Plan, parse_choice, parse_levels
from perf.http.prompts import Texts
from perf.http.wire import Origin

ORIGIN = Origin.parse("http://127.0.0.1:1")
PLAN = Plan([LoadTarget("own", "http://h:1")], [Level()], Ask(Task.GENERATE), Texts(4), Extent(0, 1))


@pytest.mark.parametrize(
    ("task", "schema"),
    [
        (Task.GENERATE, GenerateParameters),
        (Task.CLASSIFY, ClassifyParameters),
        (Task.INFER, InferParameters),
        (Task.NLU, NluParameters),
    ],
)
def test_the_facade_takes_the_bodies(task: Task, schema: type[TaskParameters]) -> None:
    body = Ask(task, ignore_eos=True).body("The king had a daughter", Api.LMAAS, "some-model")
    assert schema.model_validate(body).model == "some-model"


@pytest.mark.parametrize("stream", [True, False])
def test_openai_s_bodies(stream: bool) -> None:
    ask = Ask(Task.GENERATE, ignore_eos=True, stream=stream)
    body = CompletionRequest.model_validate(ask.body("Once", Api.OPENAI, None))
    assert (body.stream, body.max_tokens, body.ignore_eos) == (stream, 64, True)
    assert (body.stream_options is not None) is stream


def test_a_pair_shares_the_words() -> None:
    body = Ask(Task.INFER).body("a b c d e", Api.LMAAS, None)
    assert body == {"premise": "a b c", "hypothesis": "d e"}
    assert Ask(Task.INFER).body("one", Api.LMAAS, None) == {"premise": "one", "hypothesis": "one"}


def test_requests_are_distinct_until_they_begin_anew() -> None:
    made = requests(ORIGIN, Api.LMAAS, None, Ask(Task.NLU), Texts(6), "a", None)
    first = [next(made) for _ in range(POOL)]
    assert len(set(first)) == POOL
    assert next(made) == first[0]
    assert json.loads(first[0].partition(b"\r\n\r\n")[2]).keys() == {"input"}


def test_levels() -> None:
    assert parse_levels("1, 4,16", None) == [Level(1), Level(4), Level(16)]
    assert [level.label for level in parse_levels(None, "2.5,10")] == ["2.5/s", "10/s"]


@pytest.mark.parametrize(
    ("concurrency", "rate", "named"),
    [
        (None, None, "--concurrency"),
        ("1", "1", "--rate"),
        ("0", None, "--concurrency"),
        ("1,x", None, "--concurrency"),
        ("1.5", None, "--concurrency"),
        (None, "0", "--rate"),
        (None, "1,", "--rate"),
        (None, "nan", "--rate"),
        (None, "inf", "--rate"),
    ],
)
def test_levels_that_are_none(concurrency: str | None, rate: str | None, named: str) -> None:
    with pytest.raises(PlanError, match=named):
        parse_levels(concurrency, rate)


def test_a_peer() -> None:
    peer = LoadTarget.parse("vllm=openai@http://127.0.0.1:8000")
    assert peer == LoadTarget("vllm", "http://127.0.0.1:8000", Api.OPENAI)


@pytest.mark.parametrize("text", ["vllm", "vllm=openai", "vllm=grpc@http://h", "=openai@http://h"])
def test_peers_that_are_none(text: str) -> None:
    with pytest.raises(PlanError, match="--peer"):
        LoadTarget.parse(text)


def test_a_choice_names_what_there_is() -> None:
    with pytest.raises(PlanError, match="--task: 'translate' is not one of generate, classify, infer, nlu"):
        parse_choice("--task", Task, "translate")


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        (replace(PLAN, targets=[LoadTarget("a", "h:1")]), "the URL of a"),
        (replace(PLAN, targets=[LoadTarget("a", "http://h"), LoadTarget("a", "http://i")]), "--peer"),
        (replace(PLAN, targets=[LoadTarget("a", "http://h", Api.OPENAI)], ask=Ask(Task.NLU)), "--task"),
        (replace(PLAN, texts=Texts(0, 8)), "--prompt-tokens"),
    ],
)
def test_plans_that_cannot_run(plan: Plan, named: str) -> None:
    PLAN.check()
    with pytest.raises(PlanError, match=named):
        plan.check()


def test_the_key_goes_to_the_appliance_and_to_no_peer() -> None:
    own = LoadTarget("own", "http://h:1", key="lmaas_a_b")
    assert b"\r\nAuthorization: Bearer lmaas_a_b\r\n" in own.origin.post("/v1/generate", b"{}")
    assert b"Authorization" not in LoadTarget.parse("vllm=openai@http://h:1").origin.post("/", b"{}")
    assert "lmaas_a_b" not in repr(own) + repr(own.origin)
