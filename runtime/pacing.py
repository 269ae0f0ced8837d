"""When the step loop and the output thread pause, so that computing and sending share the CPUs.

An answer costs time in every process on its way to the client, on the CPUs that also run the model's steps.
"""

from __future__ import annotations

import time

from runtime.request_state import Event, TokenEvent

# The first token of a lone stream reaches its client within this time, if no step uses the CPUs.
FIRST_TOKEN_SECONDS = 0.0015
# Up to this number of streams, every answer is sent at once.
FREE_STREAMS = 4
# Above it: answers a second to all streams together, and the longest time between two answers of a stream.
ANSWERS_PER_SECOND = 250
MAX_PAUSE_SECONDS = 0.25


class StepPacing:
    """The step loop pauses once, after the first token of a stream that is the only request."""

    def __init__(self, *, on_host: bool) -> None:
        """`on_host`: steps run on the CPUs."""
        self._on_host = on_host

    def pause_after(self, events: list[Event], num_requests: int) -> float:
        """Seconds before the next step, after a step with these events; `num_requests` are not done yet."""
        if num_requests != 1 or not self._on_host:
            return 0.0
        last = events[-1]
        if not isinstance(last, TokenEvent) or last.reason is not None or not last.state.request.stream:
            return 0.0
        is_first = last.sequence_index == 0 and last.state.sequences[0].num_generated == 1
        return FIRST_TOKEN_SECONDS if is_first else 0.0


class StreamPacing:
    """All streams get their next answers together, in turns; first and last answers do not wait for a turn.

    The more streams there are, the longer is the time between two turns. Used by the output thread only.
    """

    def __init__(self) -> None:
        self.num_streams = 0  # requests that got an answer, and get another one
        self._next_turn = 0.0  # on the monotonic clock, seconds

    @property
    def is_turn(self) -> bool:
        return time.monotonic() >= self._next_turn

    @property
    def seconds_to_turn(self) -> float:
        return max(0.0, self._next_turn - time.monotonic())

    def end_turn(self) -> None:
        """All answers that were due are sent."""
        pause = max(0, self.num_streams - FREE_STREAMS) / ANSWERS_PER_SECOND
        self._next_turn = time.monotonic() + min(pause, MAX_PAUSE_SECONDS)
