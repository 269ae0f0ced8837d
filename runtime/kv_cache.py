"""The KV cache: fixed slots in one buffer, who owns which of its rows, and how many rows there may be at all.

| rows of a slot                    | owner                                                              |
| --------------------------------- | ------------------------------------------------------------------ |
| taken slot, [0, computed)         | the sequence in the slot                                           |
| taken slot, [computed, need)      | promised to it; the next run writes row `computed`                 |
| free slot, [0, len(residue))      | nobody; left by the last owner, whoever begins alike may take over |
| any slot, up to `touched`         | dead where not owned: memory that can be given back                |

`capacity` bounds the rows that are promised to sequences or hold memory, over all slots: a sequence gets a
slot only where its whole need fits beside the other promises, and free slots give up their rows for it, the
longest unused first. Within the capacity, residues stay while they are the latest quarter of it; other rows
that nobody took over in KEEP_SECONDS go back to the operating system.

Decoding sequences lie in a prefix of the slots, so that a step runs on one view without a copy. A sequence
that is still being prefilled may lie within this prefix: its slot rides along, and only its row `computed` is
written. Where steps are captured, free slots beyond the prefix ride along too: `harmless_row`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from runtime.errors import IntegrityError
from runtime.kv_memory import CacheLayout, HostKvMemory, KvMemory
from runtime.sequence import Sequence, SequenceState

__all__ = ["CacheLayout", "KvCache"]

MakeMemory = Callable[[CacheLayout, int, int], KvMemory]

KEEP_SECONDS = 10.0
RESIDUE_SHARE = 4  # residues may stay while they are this part of the capacity
_COMPARED_AT_ONCE = 32  # tokens


class KvCache:
    def __init__(
        self,
        layout: CacheLayout,
        num_slots: int,
        context_length: int,
        max_tokens: int | None = None,
        make_memory: MakeMemory = HostKvMemory,
    ) -> None:
        """`max_tokens` bounds the rows of all slots together; None: all that there are."""
        self.context_length = context_length
        self.num_slots = num_slots
        self.capacity = min(max_tokens or num_slots * context_length, num_slots * context_length)
        self.reused_tokens = 0
        self.memory = make_memory(layout, num_slots, context_length)
        self.clear()

    def clear(self) -> None:
        """Forget all owners and all rows."""
        for slot in range(self.num_slots):
            self.memory.give_back(slot, 0, self.context_length)
        self._owners: list[Sequence | None] = [None] * self.num_slots
        self._residues: list[list[int]] = [[] for _ in range(self.num_slots)]
        self._freed = [0.0] * self.num_slots  # when a slot was last left, on the monotonic clock
        self._touched = [0] * self.num_slots  # rows of each slot that may hold memory
        self.num_taken = 0
        self.promised = 0  # rows, to all sequences in slots
        self.resident = 0  # rows promised, or that may hold memory
        self.untidy = False  # some rows may have to be given back

    @property
    def buffers(self) -> NDArray[Any]:
        return self.memory.buffers

    @property
    def owners(self) -> list[Sequence]:
        """The sequences in slots."""
        return [owner for owner in self._owners if owner is not None]

    @property
    def has_decoding(self) -> bool:
        return self._last_decoding() >= 0

    @property
    def num_tokens(self) -> int:
        """Rows that belong to sequences, over all slots."""
        return sum(owner.computed for owner in self.owners)

    def fits(self, sequence: Sequence) -> bool:
        """Whether there is a slot, and room for all the rows that it may need."""
        return self.num_taken < self.num_slots and self.promised + sequence.need <= self.capacity

    def allocate(self, sequence: Sequence) -> None:
        """Give the sequence a slot, with the rows of its longest prefix that is in the cache already."""
        taken, taken_length = self._longest_prefix(sequence, free=False)
        slot, length = self._longest_prefix(sequence, free=True)
        copied = length == 0 or length < taken_length
        if copied:
            slot, length = self._owners.index(None), taken_length
        self._take(slot, sequence)
        self._make_room()
        if copied:
            self.memory.copy_rows(taken, slot, length)
        sequence.computed = length
        self.num_taken += 1
        self.promised += sequence.need
        self.reused_tokens += length

    def deallocate(self, sequence: Sequence) -> None:
        """Take the slot back; its rows stay until somebody else needs the place."""
        self._leave(sequence.slot, sequence)
        self._residues[sequence.slot] = sequence.tokens[: sequence.computed]
        sequence.slot = -1
        self.num_taken -= 1
        self.promised -= sequence.need

    def decoding_rows(self) -> list[Sequence]:
        """Close the holes below the last decoding sequence; the sequences of slots 0 up to and with it."""
        last = self._last_decoding()
        while None in self._owners and (hole := self._owners.index(None)) < last:
            self._move(last, hole)
            last = self._last_decoding()
        return [owner for owner in self._owners[: last + 1] if owner is not None]

    def harmless_row(self, slot: int) -> int:
        """Where a run may write into a slot that only rides along: the first row that holds nothing.

        Where all do, the last: nobody takes it over, since every sequence runs its own last token.
        """
        owner = self._owners[slot]
        held = len(self._residues[slot]) if owner is None else owner.computed
        return min(held, self.context_length - 1)

    def give_back(self, before: float) -> bool:
        """Give back the rows of one slot that was left before this moment; whether there was one.

        One, because it takes milliseconds for a long slot of a large model, in which no sequence goes on.
        """
        room = self.capacity // RESIDUE_SHARE
        free = [slot for slot, owner in enumerate(self._owners) if owner is None and self._touched[slot]]
        self.untidy = False
        for slot in sorted(free, key=self._freed.__getitem__, reverse=True):
            kept = len(self._residues[slot])
            room -= kept
            if room < 0:
                room, kept = room + kept, 0
            if kept == 0 or self._touched[slot] - kept > self.memory.rows_per_page:
                self.untidy = True
                if self._freed[slot] <= before:
                    self._give_back(slot, kept)
                    return True
        return False

    def check_integrity(self) -> None:
        """Raise IntegrityError where the table at the head of this file does not hold."""
        if self.memory.num_slots != len(self._owners) or len(self._residues) != len(self._owners):
            raise IntegrityError("slots were lost")
        for slot, owner in enumerate(self._owners):
            if owner is not None:
                self._check_owner(slot, owner)
            if not len(self._residues[slot]) <= self._touched[slot] <= self.context_length:
                raise IntegrityError(f"slot {slot}: a residue where nothing was written")
        promised, resident = sum(one.need for one in self.owners), sum(map(self._held, range(self.num_slots)))
        found, counted = (
            (len(self.owners), promised, resident),
            (self.num_taken, self.promised, self.resident),
        )
        if found != counted:
            raise IntegrityError(f"slots taken, rows promised and resident: {found}, counted {counted}")
        if self.resident > self.capacity:
            raise IntegrityError(f"{self.resident} rows are held, of at most {self.capacity}")

    def _check_owner(self, slot: int, owner: Sequence) -> None:
        if owner.slot != slot or owner.state is not SequenceState.RUNNING:
            raise IntegrityError(
                f"slot {slot} belongs to a sequence {owner.state.value} in slot {owner.slot}"
            )
        if not 0 <= owner.computed <= min(len(owner.tokens), owner.need):
            raise IntegrityError(
                f"slot {slot}: {owner.computed} rows for {len(owner.tokens)} tokens, {owner.need} promised"
            )
        if self._residues[slot]:
            raise IntegrityError(f"slot {slot} is taken, yet holds a residue")

    def _held(self, slot: int) -> int:
        """Rows of the slot that are promised or may hold memory."""
        owner = self._owners[slot]
        return self._touched[slot] if owner is None else max(self._touched[slot], owner.need)

    def _take(self, slot: int, sequence: Sequence) -> None:
        self.resident -= self._held(slot)
        self._owners[slot] = sequence
        self._residues[slot] = []
        self.resident += self._held(slot)
        sequence.slot = slot

    def _leave(self, slot: int, sequence: Sequence) -> None:
        """The slot is free; one row beyond the sequence's own may have been written by a step."""
        self.resident -= self._held(slot)
        self._owners[slot] = None
        self._touched[slot] = max(self._touched[slot], min(sequence.computed + 1, sequence.need))
        self._freed[slot] = time.monotonic()
        self.resident += self._touched[slot]
        self.untidy = True

    def _make_room(self) -> None:
        """Give back rows that nobody owns until the held ones fit: without meaning, oldest, beyond need."""
        if self.resident <= self.capacity:
            return
        free = [slot for slot, owner in enumerate(self._owners) if owner is None and self._touched[slot]]
        for slot in sorted(free, key=lambda slot: (bool(self._residues[slot]), self._freed[slot])):
            self._give_back(slot, 0)
            if self.resident <= self.capacity:
                return
        for slot, owner in enumerate(self._owners):
            if owner is not None and self._touched[slot] > owner.need:
                self._give_back(slot, owner.need)

    def _give_back(self, slot: int, kept: int) -> None:
        self.memory.give_back(slot, kept, self._touched[slot])
        self.resident -= self._held(slot)
        self._residues[slot] = self._residues[slot][:kept]
        self._touched[slot] = kept
        self.resident += self._held(slot)

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
            limit = min(len(held) if owner is None else owner.computed, sequence.reusable)
            if limit <= longest or held[longest] != sequence.tokens[longest]:
                continue  # it cannot be longer than the longest
            length = _common_prefix(held, sequence.tokens, limit)
            if length > longest:
                best, longest = slot, length
        return best, longest

    def _move(self, source: int, target: int) -> None:
        sequence = self._owners[source]
        if sequence is None:
            raise IntegrityError(f"slot {source} has nothing to move")
        self.memory.copy_rows(source, target, sequence.computed)
        self._leave(source, sequence)
        self._take(target, sequence)
        self._make_room()


def _common_prefix(left: list[int], right: list[int], limit: int) -> int:
    """Leading tokens that both share, at most `limit`."""
    for begin in range(0, limit, _COMPARED_AT_ONCE):
        end = min(begin + _COMPARED_AT_ONCE, limit)
        if left[begin:end] != right[begin:end]:
            return next(place for place in range(begin, end) if left[place] != right[place])
    return limit
