"""When a request will be finished, from the measured speed and what is before it. Used by the step thread.

The prediction plays the queue: of one priority every caller has an equal share of the slots, and more where
the others use fewer; in its share its sequences run one after another. Prompts run between the decode steps.
A text that may end early is expected to have the mean share of its longest length that such texts had.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Collection, Iterable

from runtime.contract import Fault, FaultCode, Operation
from runtime.drain_rate import MOST_SECONDS
from runtime.request_state import RequestState, Sequence
from runtime.scheduler import MEAN_DECAY, Scheduler

MARGIN = 1.25  # a request is refused where it would take this multiple of the time that it has


class AnswerLengths:
    """The mean share of `max_tokens` that texts had which could end early."""

    def __init__(self) -> None:
        self.share = 0.0  # no request is refused for a length that was never seen

    def note(self, sequence: Sequence) -> None:
        """It ended by itself."""
        if can_end_early(sequence):
            seen = sequence.num_generated / (sequence.max_length - sequence.num_prompt)
            self.share = MEAN_DECAY * self.share + (1 - MEAN_DECAY) * seen

    def steps(self, sequence: Sequence) -> float:
        """Decode steps that the sequence is expected to need from now on."""
        if not sequence.generates:
            return 0.0
        share = self.share if can_end_early(sequence) else 1.0
        expected = share * (sequence.max_length - sequence.num_prompt)
        return max(1.0, expected - sequence.num_generated)


def can_end_early(sequence: Sequence) -> bool:
    return sequence.generates and (sequence.stop_at_eos or bool(sequence.state.request.parameters.stop))


def why_too_late(state: RequestState, scheduler: Scheduler, lengths: AnswerLengths) -> Fault | None:
    """Why a request that is not in the queue yet is refused: it cannot be finished before its deadline.

    An idle engine refuses nothing: its speed is measured anew with every request.
    """
    deadline = state.request.deadline
    if deadline is None or not scheduler.has_work:
        return None
    needed = seconds_to_finish(state, scheduler, lengths)
    left = deadline - time.monotonic()
    if needed is None or needed <= left * MARGIN:
        return None
    message = (
        f"it would be finished in about {needed:.1f} s, after its deadline of "
        f"{state.request.parameters.deadline_ms} ms: {scheduler.num_running} sequences run and "
        f"{len(scheduler.queue)} wait"
    )
    return Fault(FaultCode.QUEUE_FULL, message, "deadline_ms", min(MOST_SECONDS, max(0.1, needed - left)))


def seconds_to_finish(state: RequestState, scheduler: Scheduler, lengths: AnswerLengths) -> float | None:
    """For a request that is not in the queue yet. None until the speed of a decode step was measured.

    Prompts count as nothing until one was long enough to be measured.
    """
    step, token = scheduler.step_seconds, scheduler.token_seconds or 0.0
    if step is None or not state.sequences:
        return None
    asked = state.sequences[0]
    rivals = [one for one in scheduler.queue if _is_rival(one, asked)]
    running_rivals = [one for one in scheduler.cache.owners if _is_rival(one, asked)]
    before = [one for one in scheduler.queue if _goes_before(one, asked)]
    running = [one for one in scheduler.cache.owners if one.caller == asked.caller]
    slots = _share_of_slots(scheduler.cache.num_slots, [*rivals, *running_rivals])
    steps = _last_end(
        slots,
        [lengths.steps(one) for one in running],
        [lengths.steps(one) for one in before],
        [lengths.steps(one) for one in state.sequences],
    )
    own_prompts = sum(map(_prompt_tokens, (*before, *state.sequences)))
    # Callers take turns: the prompts of each of the others are as many tokens as the own ones, at most.
    turns = own_prompts * len({one.caller for one in rivals})
    return steps * step + (own_prompts + min(turns, sum(map(_prompt_tokens, rivals)))) * token


def _goes_before(one: Sequence, asked: Sequence) -> bool:
    return one.priority < asked.priority or (one.priority == asked.priority and one.caller == asked.caller)


def _is_rival(one: Sequence, asked: Sequence) -> bool:
    return one.priority == asked.priority and one.caller != asked.caller


def _share_of_slots(num_slots: int, rivals: Collection[Sequence]) -> int:
    callers = 1 + len({one.caller for one in rivals})
    return max(1, num_slots // callers, num_slots - len(rivals))


def _prompt_tokens(one: Sequence) -> int:
    """What is to be run of its prompt; the other sequences of a request find its beginning in the cache."""
    shared = one.reusable if one.index and one.operation is not Operation.EMBED else 0
    return max(0, one.num_prompt - max(shared, one.computed))


def _last_end(
    slots: int, running: Iterable[float], waiting: Iterable[float], asked: Iterable[float]
) -> float:
    """After which step the last of `asked` ends; each list has the steps that sequences need."""
    shortest = heapq.nsmallest(slots, running)
    ends = [0.0] * (slots - len(shortest)) + shortest  # ascending, and so a heap
    for steps in waiting:
        heapq.heapreplace(ends, ends[0] + steps)
    last = 0.0
    for steps in asked:
        end = ends[0] + steps
        heapq.heapreplace(ends, end)
        last = max(last, end)
    return last
