"""The KV cache: one buffer of fixed slots, and who owns which of its rows.

| rows of a slot                    | owner                                                              |
| --------------------------------- | ------------------------------------------------------------------ |
| taken slot, [0, computed)         | the sequence in the slot                                           |
| taken slot, [computed, context)   | nobody; the next run writes there                                  |
| free slot, [0, len(residue))      | nobody; left by the last owner, whoever begins alike may take over |
| free slot, [len(residue), context)| nobody; holds no meaning                                           |

Decoding sequences lie in a prefix of the slots, so that a step runs on one view without a copy. A sequence
that is still being prefilled may lie within this prefix: its slot rides along, and only its row `computed` is
written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.errors import IntegrityError
from runtime.sequence import Sequence, SequenceState


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """The cache that a graph asks for; `head_size` may be padded beyond the model's own."""

    num_layers: int
    num_heads: int
    head_size: int
    dtype: np.dtype[Any]


class KvCache:
    """`buffers` [2 * layers, slots, heads, context, head_size]: layer 0's keys, its values, layer 1's ..."""

    def __init__(self, layout: CacheLayout, num_slots: int, context_length: int) -> None:
        self.context_length = context_length
        self.num_slots = num_slots
        shape = (2 * layout.num_layers, num_slots, layout.num_heads, context_length, layout.head_size)
        # Zeroed by the operating system page by page when first touched: memory follows use, not capacity.
        self.buffers = np.zeros(shape, layout.dtype)
        self.reused_tokens = 0
        self.clear()

    def clear(self) -> None:
        """Forget all owners and all rows."""
        self._owners: list[Sequence | None] = [None] * self.num_slots
        self._residues: list[list[int]] = [[] for _ in range(self.num_slots)]

    @property
    def has_free(self) -> bool:
        return None in self._owners

    @property
    def num_taken(self) -> int:
        return sum(owner is not None for owner in self._owners)

    @property
    def has_decoding(self) -> bool:
        return self._last_decoding() >= 0

    @property
    def num_tokens(self) -> int:
        """Rows that belong to sequences, over all slots."""
        return sum(owner.computed for owner in self._owners if owner is not None)

    def allocate(self, sequence: Sequence) -> None:
        """Give the sequence a slot, with the rows of its longest prefix that is in the cache already."""
        taken, taken_length = self._longest_prefix(sequence, free=False)
        slot, length = self._longest_prefix(sequence, free=True)
        if length == 0 or length < taken_length:
            slot, length = self._owners.index(None), taken_length
            self._copy(taken, slot, length)
        self._owners[slot] = sequence
        self._residues[slot] = []
        sequence.slot = slot
        sequence.computed = length
        self.reused_tokens += length

    def deallocate(self, sequence: Sequence) -> None:
        """Take the slot back; its rows stay until somebody else needs the place."""
        self._owners[sequence.slot] = None
        self._residues[sequence.slot] = sequence.tokens[: sequence.computed]
        sequence.slot = -1

    def decoding_rows(self) -> list[Sequence]:
        """Close the holes below the last decoding sequence; the sequences of slots 0 up to and with it."""
        last = self._last_decoding()
        while None in self._owners and (hole := self._owners.index(None)) < last:
            self._move(last, hole)
            last = self._last_decoding()
        return [owner for owner in self._owners[: last + 1] if owner is not None]

    def check_integrity(self) -> None:
        """Raise IntegrityError where the table at the head of this file does not hold."""
        for slot, owner in enumerate(self._owners):
            if owner is None:
                continue
            if owner.slot != slot or owner.state is not SequenceState.RUNNING:
                raise IntegrityError(
                    f"slot {slot} belongs to a sequence {owner.state.value} in slot {owner.slot}"
                )
            if not 0 <= owner.computed <= min(len(owner.tokens), self.context_length):
                raise IntegrityError(f"slot {slot}: {owner.computed} rows for {len(owner.tokens)} tokens")
            if self._residues[slot]:
                raise IntegrityError(f"slot {slot} is taken, yet holds a residue")
        if self.buffers.shape[1] != len(self._owners) or len(self._residues) != len(self._owners):
            raise IntegrityError("slots were lost")

    def _last_decoding(self) -> int:
        for slot in range(self.num_slots - 1, -1, -1):
            owner = self._owners[slot]
            if owner is not None and owner.is_decoding:
                return slot
        return -1

    def _longest_prefix(self, sequence: Sequence, *, free: bool) -> tuple[int, int]:
        """(slot, length) of the free, or else taken, slot whose rows begin most like the sequence."""
        best, longest = -1, 0
        for slot, owner in enumerate(self._owners):
            if (owner is None) is not free:
                continue
            held = self._residues[slot] if owner is None else owner.tokens
            rows = len(held) if owner is None else owner.computed
            length = _common_prefix(held, sequence.tokens, min(rows, sequence.reusable))
            if length > longest:
                best, longest = slot, length
        return best, longest

    def _move(self, source: int, target: int) -> None:
        sequence = self._owners[source]
        if sequence is None:
            raise IntegrityError(f"slot {source} has nothing to move")
        self._copy(source, target, sequence.computed)
        self._owners[source], self._owners[target] = None, sequence
        self._residues[source], self._residues[target] = sequence.tokens[: sequence.computed], []
        sequence.slot = target

    def _copy(self, source: int, target: int, length: int) -> None:
        if length:
            self.buffers[:, target, :, :length] = self.buffers[:, source, :, :length]


def _common_prefix(left: list[int], right: list[int], limit: int) -> int:
    """Leading tokens that both share, at most `limit`; cheap where the first ones differ already."""
    if limit <= 0 or left[0] != right[0]:
        return 0
    for position in range(1, limit):
        if left[position] != right[position]:
            return position
    return limit
