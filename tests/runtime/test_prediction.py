"""The predicted end of a request, beside the steps that the scheduler really needs. A step takes a second."""

from __future__ import annotations

import pytest

from runtime.contract import FinishReason, Operation
from runtime.prediction import AnswerLengths, seconds_to_finish
from runtime.request import Request
from runtime.request_state import RequestState, Sequence
from runtime.sampling import SamplingParameters
from runtime.scheduler import MIN_CHUNK, Chunk, Decode, Prefill
from tests.runtime.engines import Collector
from tests.runtime.test_scheduler import SchedulerModel

NEW_TOKENS = 12


class Played:
    """A scheduler whose runs take one second for a decode step and a fifth of one for a prompt token."""

    def __init__(self, num_slots: int) -> None:
        self.model = SchedulerModel(num_slots)
        self.lengths = AnswerLengths()
        self.seconds = 0.0

    def measure(self) -> None:
        probe = Sequence(state_of([0]), 0, Operation.NEXT, [0] * MIN_CHUNK, first_wanted=0)
        self.model.scheduler.note_run(Decode([], []), 1.0)
        self.model.scheduler.note_run(Prefill([Chunk(probe, MIN_CHUNK)]), 0.2 * MIN_CHUNK)
        self.model.scheduler.beside_decode = 4

    def add(self, caller: str, number: int) -> None:
        self.model.add([0, number % 3, number % 2], NEW_TOKENS, caller=caller)

    def step(self) -> None:
        batch = self.model.step()
        self.seconds += 0.2 * batch.num_tokens if isinstance(batch, Prefill) else 1.0

    def predicted(self, caller: str) -> float | None:
        state = state_of([0, 1, 1], caller)
        state.sequences = [texts(state)]
        return seconds_to_finish(state, self.model.scheduler, self.lengths)

    def needed(self, caller: str) -> float:
        self.model.add([0, 1, 1], NEW_TOKENS, caller=caller)
        sequence, before = self.model.added[-1], self.seconds
        while sequence not in self.model.ends:
            self.step()
        return self.seconds - before


def state_of(tokens: list[int], caller: str = "") -> RequestState:
    return RequestState(
        Request("1", "text", parameters=SamplingParameters(caller=caller)), Collector(), tokens
    )


def texts(state: RequestState, *, stop_at_eos: bool = False) -> Sequence:
    return Sequence(
        state, 0, Operation.GENERATE, [0, 1, 1], first_wanted=2, max_new_tokens=NEW_TOKENS,
        stop_at_eos=stop_at_eos,
    )  # fmt: skip


@pytest.fixture
def played() -> Played:
    return Played(num_slots=4)


def test_nothing_is_predicted_before_the_speed_was_measured(played: Played) -> None:
    assert played.predicted("a") is None


@pytest.mark.parametrize("waiting", [0, 2, 4, 12, 40])
@pytest.mark.parametrize("caller", ["crowd", "newcomer"])
def test_the_prediction_is_what_is_needed(played: Played, waiting: int, caller: str) -> None:
    """For the caller whose requests wait, and for another one, who has a share of the slots."""
    played.lengths.share = 1.0
    played.measure()
    for number in range(waiting):
        played.add("crowd", number)
    for _ in range(3):
        played.step() if waiting else None
    predicted = played.predicted(caller)
    assert predicted is not None
    assert predicted == pytest.approx(played.needed(caller), rel=0.3, abs=4.0)


def test_a_crowd_of_one_caller_does_not_move_the_end_of_another(played: Played) -> None:
    played.lengths.share = 1.0
    played.measure()
    for number in range(100):
        played.add("crowd", number)
    played.step()
    own, other = played.predicted("crowd"), played.predicted("newcomer")
    assert own is not None
    assert other is not None
    assert other < 3 * NEW_TOKENS < 20 * other < own


def test_texts_that_end_early_are_expected_to_go_on_doing_so() -> None:
    lengths = AnswerLengths()
    state = state_of([0, 1, 1])
    assert lengths.steps(texts(state)) == NEW_TOKENS, "it ignores the end of a text"
    assert lengths.steps(texts(state, stop_at_eos=True)) == 1, "nothing is known of such texts yet"
    for _ in range(40):
        ended = texts(state, stop_at_eos=True)
        ended.tokens += [0] * (NEW_TOKENS // 2)
        ended.finish_reason = FinishReason.STOP
        lengths.note(ended)
    assert lengths.steps(texts(state, stop_at_eos=True)) == pytest.approx(NEW_TOKENS / 2, rel=0.01)
