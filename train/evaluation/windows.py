"""How a long text is cut for a language model that reads a limited number of tokens at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens `start` up to, not including, `end` of a text are read; those from `scored` on are scored."""

    start: int
    scored: int
    end: int


def windows(num_tokens: int, length: int) -> Iterator[Window]:
    """Windows of up to `length` tokens that score each token after the first one once.

    They overlap by half: a token after the first window has at least `length` // 2 tokens before it.
    """
    done = 1
    while done < num_tokens:
        start = 0 if done == 1 else max(0, done - length // 2)
        end = min(start + length, num_tokens)
        yield Window(start, done, end)
        done = end
