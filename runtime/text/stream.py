"""The text of one generated sequence, released as soon as it is certain."""

from __future__ import annotations

import codecs

from runtime.text.stop_strings import stop_automaton
from runtime.text.tokenizer import Tokenizer


class TextStream:
    """Turns token ids into text pieces that are safe to send.

    Invariant: the joined pieces are the bytes of all tokens, decoded with U+FFFD for what is not UTF-8, up to
    the beginning of the first stop string. The first stop string is the one that begins first in the text, so
    that the answer does not depend on how tokens cut it. If a stop string lies inside another one that began
    earlier and may still complete, the stream waits.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...] = ()) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._automaton = stop_automaton(stop) if stop else None
        self._state = 0
        self._held = ""  # decoded, not yet returned
        self._cut: int | None = None  # where in `_held` the earliest complete stop string begins

    def push(self, token_id: int) -> str:
        """Text that became certain with this token; empty after a stop string."""
        if self.stopped:
            return ""
        return self._scan(self._decoder.decode(self._tokenizer.token_bytes(token_id)))

    def finish(self) -> str:
        """The text that was held back, at the end of the sequence.

        May set `stopped`: a stop string that waited for a longer one counts.
        """
        tail = "" if self.stopped else self._scan(self._decoder.decode(b"", final=True))
        rest, self._held = self._held[: self._cut], ""
        self.stopped = self.stopped or self._cut is not None
        return tail + rest

    def _scan(self, text: str) -> str:
        automaton, state = self._automaton, self._state
        if automaton is None or (state == 0 and automaton.first_characters.isdisjoint(text)):
            return text
        position = len(self._held)
        self._held += text
        for character in text:
            position += 1
            state = automaton.step(state, character)
            if automaton.matches[state]:
                begin = position - automaton.matches[state]
                self._cut = begin if self._cut is None else min(begin, self._cut)
            if self._cut is not None and position - automaton.depths[state] >= self._cut:
                self.stopped = True
                released, self._held = self._held[: self._cut], ""
                return released
        self._state = state
        return self._release(position - automaton.depths[state])

    def _release(self, certain: int) -> str:
        """Return the first `certain` characters that are held; no stop string can begin in them."""
        released, self._held = self._held[:certain], self._held[certain:]
        if self._cut is not None:
            self._cut -= certain
        return released
