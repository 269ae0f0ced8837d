"""The text of one generated sequence: pieces as soon as they are certain, and where each token begins."""

from __future__ import annotations

import codecs
from collections import deque
from functools import lru_cache

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

    def push(self, token_id: int, *, stops: bool = True) -> str:
        """Text that became certain with this token; empty after a stop string.

        With `stops` off, for the first tokens of a sequence, no stop string begins in their text.
        """
        if self.stopped:
            return ""
        text = self._decoder.decode(self._tokenizer.token_bytes(token_id))
        return self._scan(text) if stops else text

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


class TextOffsets:
    """Counts the characters of a text, as `TextStream` makes it, token by token.

    Tokens that are pieces of one character begin where the character begins. A token without text begins
    where the next token begins. `spelled`: the text spells control tokens out, as a prompt does.
    """

    def __init__(self, tokenizer: Tokenizer, begin: int = 0, *, spelled: bool = False) -> None:
        self._bytes_of = tokenizer.spelled if spelled else tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._complete = begin  # characters

    def next(self, token_id: int) -> int:
        """Where the next token of the text begins."""
        content = self._bytes_of(token_id)
        if not content:
            return self._complete
        # The first byte belongs to the last character that began, whether it completes that one or not.
        self._complete += len(self._decoder.decode(content[:1]))
        incomplete = self._decoder.getstate()[0].decode("utf-8", "replace")
        offset = self._complete + len(incomplete) - 1
        self._complete += len(self._decoder.decode(content[1:]))
        return offset


class StopAutomaton:
    """The stop strings of one request as a trie with failure links; immutable, shared by its sequences.

    It finds the first of them in text that arrives in pieces (Aho and Corasick 1975).

    A state is the longest end of the text so far that begins a stop string; state 0 is the empty one.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.depths = [0]  # characters of the text that the state stands for
        self.matches = [0]  # length of the longest stop string that ends here; 0: none does
        self.first_characters = frozenset(string[0] for string in stop)
        self._children: list[dict[str, int]] = [{}]
        for string in stop:
            self._add(string)
        self._failures = [0] * len(self._children)
        self._link()

    def _add(self, string: str) -> None:
        state = 0
        for character in string:
            if character not in self._children[state]:
                self._children[state][character] = len(self._children)
                self._children.append({})
                self.depths.append(self.depths[state] + 1)
                self.matches.append(0)
            state = self._children[state][character]
        self.matches[state] = len(string)

    def _link(self) -> None:
        """Breadth first, so that the links of shorter states exist."""
        waiting = deque(self._children[0].values())
        while waiting:
            state = waiting.popleft()
            for character, child in self._children[state].items():
                self._failures[child] = self.step(self._failures[state], character)
                self.matches[child] = max(self.matches[child], self.matches[self._failures[child]])
                waiting.append(child)

    def step(self, state: int, character: str) -> int:
        """The state after one more character; amortised constant time."""
        children = self._children
        while state and character not in children[state]:
            state = self._failures[state]
        return children[state].get(character, 0)


@lru_cache(maxsize=256)
def stop_automaton(stop: tuple[str, ...]) -> StopAutomaton:
    """The automaton of non-empty `stop`; many requests send the same strings."""
    return StopAutomaton(stop)
