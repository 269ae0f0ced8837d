"""Finding the first of several stop strings in text that arrives in pieces (Aho and Corasick 1975)."""

from __future__ import annotations

from collections import deque
from functools import lru_cache


class StopAutomaton:
    """The stop strings of one request as a trie with failure links; immutable, shared by its sequences.

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
