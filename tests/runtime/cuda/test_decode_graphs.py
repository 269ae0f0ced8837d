"""The code path of a GPU, run on the CPU: it answers as the CPU engine does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.contract import Operation
from runtime.cuda.captured import Shape
from runtime.cuda.decode_graphs import bucket
from runtime.engine import Engine
from tests.runtime.cuda.accelerated import accelerated_engine
from tests.runtime.engines import Collector, ask, submit, token_ids

TEXTS = ("the cat", "a dog and the cat ran", "she", "rain on the roof all night", "the cat ran")
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
SAMPLED: dict[str, Any] = {"temperature": 0.8, "seed": 7, "max_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def stand(lm_artifact: Path) -> Iterator[Engine]:
    engine = accelerated_engine(lm_artifact, num_slots=5, prefill_chunk=4)
    yield engine
    engine.close()


def answers(engine: Engine, **parameters: Any) -> list[list[int]]:
    """All texts at once."""
    sinks = [submit(engine, text, parameters) for text in TEXTS]
    return [sink.wait().details["choices"][0]["token_ids"] for sink in sinks]


@pytest.mark.parametrize(
    ("count", "slots", "size"),
    [(1, 32, 1), (2, 32, 2), (3, 32, 4), (4, 32, 4), (5, 32, 8), (17, 32, 32), (5, 6, 6), (1, 1, 1)],
)
def test_a_bucket_is_the_next_power_of_two_that_there_are_slots_for(
    count: int, slots: int, size: int
) -> None:
    assert bucket(count, slots) == size


@pytest.mark.parametrize(
    "parameters",
    [
        GREEDY,
        SAMPLED,
        SAMPLED | {"top_k": 5},
        SAMPLED | {"min_p": 0.02},
        SAMPLED | {"top_k": 40, "min_p": 0.01, "temperature": 1.7},
        SAMPLED | {"top_p": 0.7},
        GREEDY | {"repetition_penalty": 1.3},
        GREEDY | {"logprobs": 2},
        GREEDY | {"logit_bias": {"200": 3.5, "12": -100}},
        SAMPLED | {"logit_bias": {"5": 4}, "best_of": 3},
        SAMPLED | {"min_tokens": 4, "ignore_eos": False, "logit_bias": {"0": 5}},
    ],
)
def test_answers_are_those_of_the_cpu(stand: Engine, engine: Engine, parameters: dict[str, Any]) -> None:
    expected = [token_ids(engine, text, **parameters) for text in TEXTS]
    assert [token_ids(stand, text, **parameters) for text in TEXTS] == expected
    assert answers(stand, **parameters) == expected


def test_who_takes_the_best_and_who_draws_share_a_step(stand: Engine, engine: Engine) -> None:
    wishes = [GREEDY, SAMPLED, SAMPLED | {"top_k": 3}, GREEDY, SAMPLED | {"seed": 8}]
    sinks = [submit(stand, text, wish) for text, wish in zip(TEXTS, wishes, strict=True)]
    found = [sink.wait().details["choices"][0]["token_ids"] for sink in sinks]
    assert found == [token_ids(engine, text, **wish) for text, wish in zip(TEXTS, wishes, strict=True)]


def test_a_stream_of_random_numbers_goes_on_when_the_host_takes_over(stand: Engine, engine: Engine) -> None:
    """While a neighbour needs its logits, too; a seed gives the same tokens."""
    expected = token_ids(engine, "the cat", **SAMPLED, n=1)
    for _ in range(3):
        needy = submit(stand, "she", GREEDY | {"logprobs": 3, "max_tokens": 5})
        drawn = submit(stand, "the cat", SAMPLED)
        assert drawn.wait().details["choices"][0]["token_ids"] == expected
        needy.wait()


def test_all_graphs_are_captured_before_the_first_request(lm_artifact: Path) -> None:
    stand = accelerated_engine(lm_artifact, num_slots=3, prefill_chunk=40)
    graphs = stand._core._session._decode_graphs
    assert graphs is not None
    try:
        stand.check_integrity()  # the step thread answers, so it has captured them
        context = 96
        steps = {Shape(0, slots, 1, context) for slots in (1, 2, 3)}
        first = {Shape(0, 1, length, length) for length in (32, 40)}
        later = {Shape(0, 1, length, context) for length in (32, 40)}
        assert graphs._runs.keys == steps | first | later
        assert graphs._draws.keys == {1, 2, 3}
        answers(stand, **GREEDY, logprobs=1)
        answers(stand, **SAMPLED, top_p=0.5)
        slots = {key.slots for key in graphs._runs.keys}
        assert {key for key in graphs._runs.keys if key.length == 1} == steps
        assert slots == {1, 2, 3}
    finally:
        stand.close()


def test_a_receipt_promises_no_bits(stand: Engine) -> None:
    """The number of rows in a step depends on who else runs, and the kernels of a GPU on that number."""
    assert ask(stand, "the cat", **GREEDY, receipt=True)["receipt"]["exact_on"] == "not-promised"


def test_log_probabilities_are_those_of_the_cpu(stand: Engine, engine: Engine) -> None:
    for parameters in (GREEDY, SAMPLED):
        found = ask(stand, "the cat", **parameters, logprobs=0)["choices"][0]["logprobs"]
        expected = ask(engine, "the cat", **parameters, logprobs=0)["choices"][0]["logprobs"]
        assert [one["logprob"] for one in found] == pytest.approx(
            [one["logprob"] for one in expected], abs=1e-4
        )


@pytest.mark.parametrize("operation", [Operation.EMBED, Operation.NEXT])
def test_other_operations_answer_as_on_the_cpu(stand: Engine, engine: Engine, operation: Operation) -> None:
    found, expected = (ask(one, "the cat ran on", operation) for one in (stand, engine))
    if operation is Operation.EMBED:
        assert found["embedding"] == pytest.approx(expected["embedding"], abs=1e-5)
    else:
        ids = [candidate["token_id"] for candidate in found["candidates"]]
        assert ids == [candidate["token_id"] for candidate in expected["candidates"]]


def test_padding_slots_write_into_rows_without_owner(lm_artifact: Path, engine: Engine) -> None:
    """Padding slots hold prefixes for later requests: these reuse them and get the right answers."""
    stand = accelerated_engine(lm_artifact, num_slots=4, prefill_chunk=4)
    prompts = [f"{word} cat and the dog ran on" for word in ("the", "a", "her", "his")]
    expected = [token_ids(engine, prompt, **GREEDY) for prompt in prompts]
    try:
        assert [
            sink.wait().details["choices"][0]["token_ids"] for sink in all_at_once(stand, prompts)
        ] == expected
        for _ in range(2):  # three of four slots are residues now, and one to two of them run as padding
            pairs = all_at_once(stand, [prompts[1], prompts[2], prompts[3]])
            assert [sink.wait().details["choices"][0]["token_ids"] for sink in pairs] == expected[1:]
        assert stand.stats().reused_tokens > 0
        stand.check_integrity()
    finally:
        stand.close()


def all_at_once(engine: Engine, prompts: list[str]) -> list[Collector]:
    return [submit(engine, prompt, GREEDY) for prompt in prompts]
