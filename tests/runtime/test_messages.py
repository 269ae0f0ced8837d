"""What the engine answers arrives as it was, and the façade shows of it what its schemas promise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.middle.schemas.generate import GenerateAnswer
from runtime.contract import FinishReason
from runtime.messages import (
    Answer,
    Candidate,
    Candidates,
    Choice,
    Embedded,
    Generated,
    Score,
    Scored,
    ScoredToken,
    Slot,
    Timings,
    TokenLogprob,
    Usage,
    answer_from_json,
)

counts = st.integers(0, 2**31)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
texts = st.text(max_size=4)
usages = st.builds(Usage.of, counts, counts)
scored_tokens = st.builds(ScoredToken, counts, texts, numbers)
logprobs = st.builds(
    TokenLogprob, counts, texts, st.none() | numbers, st.lists(scored_tokens, max_size=2).map(tuple), counts
)
choices = st.builds(
    Choice,
    counts,
    texts,
    st.lists(counts, max_size=3),
    st.none() | st.lists(logprobs, max_size=2),
    st.none() | st.sampled_from(FinishReason),
    st.just(0.0),
)
answers = (
    st.builds(
        lambda listed, usage, timings: Generated(
            0 if usage is None else usage.prompt_tokens, listed, usage, timings
        ),
        st.lists(choices, max_size=2),
        st.none() | usages,
        st.none() | st.builds(Timings, numbers, numbers, numbers),
    )
    | st.builds(
        Scored,
        st.lists(st.builds(Score, counts, st.lists(scored_tokens, max_size=3)), max_size=2),
        usages,
    )
    | st.builds(
        Candidates, st.lists(st.builds(Candidate, counts, texts, numbers, numbers), max_size=2), usages
    )
    | st.builds(Embedded, st.lists(numbers, max_size=3), usages)
)


@given(answers)
def test_an_answer_arrives_as_it_was(answer: Answer) -> None:
    content = json.dumps(answer.to_json(), allow_nan=False)
    assert answer_from_json(answer.operation, json.loads(content)) == answer


def test_a_slot_arrives_as_it_was() -> None:
    slot = Slot("genre", "jazz", 10, 14, 0.5)
    data = {"name": "genre", "value": "jazz", "start": 10, "end": 14, "score": 0.5}
    assert slot.to_json() == data
    assert Slot.from_json(data) == slot


def test_the_tensor_holds_what_clients_of_triton_read() -> None:
    token = TokenLogprob(7, " a", -0.5, (ScoredToken(8, " b", -0.75),), 3)
    choice = Choice(0, " a", [7], [token], FinishReason.LENGTH, -0.5)
    answer = Generated(2, [choice], Usage.of(2, 1), Timings(0.0, 0.5, 1.5), "xyz")
    assert answer.to_json() == {
        "choices": [
            {
                "index": 0,
                "text": " a",
                "token_ids": [7],
                "logprobs": [
                    {
                        "token_id": 7,
                        "text": " a",
                        "logprob": -0.5,
                        "text_offset": 3,
                        "top": [{"token_id": 8, "text": " b", "logprob": -0.75}],
                    }
                ],
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 2, "completion_tokens": 1},
        "timings": {"queue_seconds": 0.0, "prefill_seconds": 0.5, "decode_seconds": 1.5},
    }


def test_a_score_sums_up_its_tokens() -> None:
    score = Score(3, [ScoredToken(1, "a", -0.5), ScoredToken(2, "b", -1.5)])
    data = score.to_json()
    assert (data["logprob"], data["num_tokens"], data["num_bytes"]) == (-2.0, 2, 3)


def test_usages_and_timings_of_several_requests() -> None:
    assert Usage.total([Usage.of(1, 2), Usage.of(3, 4)]) == Usage(4, 6, 10)
    assert Timings.longest([Timings(1, 5, 2), Timings(3, 1, 2)]) == Timings(3, 5, 2)
    assert Timings.longest([]) is None


@pytest.mark.parametrize("mode", ["json", "python"])
def test_the_facade_shows_every_field_but_the_cumulative_logprob(mode: str) -> None:
    choice = Choice(0, "a", [1], None, FinishReason.STOP, -4.5)
    shown: dict[str, Any] = GenerateAnswer(
        id="t", model="m", version=1, precision="int8", choices=[choice], usage=Usage.of(1, 1)
    ).model_dump(mode=mode)
    assert shown["choices"] == [choice.to_json()]
    assert shown["usage"] == {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    promised = GenerateAnswer.model_json_schema(mode="serialization")["$defs"]
    assert set(promised["Choice"]["properties"]) == set(choice.to_json())
    assert set(promised["Usage"]["required"]) == set(shown["usage"])
