"""How long runs take, and so how much of a prompt may be run between two steps of sequences that decode."""

from __future__ import annotations

STEPS = 3  # a chunk of a prompt takes about as long as so many decode steps, or has LEAST tokens
LEAST = 32  # tokens of a chunk: below, a run costs more than its tokens do
MULTIPLE = 8  # rows that the operators take together
MEMORY = 0.8  # the weight of what was known, when a new run is measured


class Pace:
    """Means of recent runs. Many rows decode in more time than few, and allow for longer chunks."""

    def __init__(self) -> None:
        self._step: float | None = None  # seconds
        self._token: float | None = None  # seconds of a prompt's token

    def note_decode(self, seconds: float) -> None:
        self._step = _mean(self._step, seconds)

    def note_prefill(self, tokens: int, seconds: float) -> None:
        if tokens >= LEAST:
            self._token = _mean(self._token, seconds / tokens)

    def chunk(self, most: int) -> int:
        """Tokens of a prompt, at most `most`; all of them while nothing is known."""
        if self._step is None or self._token is None:
            return most
        tokens = int(STEPS * self._step / self._token) // MULTIPLE * MULTIPLE
        return min(most, max(LEAST, tokens))


def _mean(known: float | None, new: float) -> float:
    return new if known is None else MEMORY * known + (1 - MEMORY) * new
