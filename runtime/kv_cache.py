"""The KV cache: fixed slots in one buffer, who owns which of its rows, and how many rows there may be.

| rows of a slot                    | owner                                                               |
| --------------------------------- | ------------------------------------------------------------------- |
| taken slot, [0, computed)         | the sequence in the slot                                            |
| taken slot, [computed, need)      | promised to the sequence; the next run writes row `computed`        |
| free slot, [0, len(residue))      | none; left by the last sequence, and reused by one with this prefix |
| any slot, up to `touched`         | garbage if not owned: memory that can be given back                 |
| saved rows of a waiting sequence  | the sequence, which was preempted; outside of the slots             |

`capacity` limits the rows that are promised to sequences or hold memory, over all slots. A sequence gets a
slot only if its whole need fits beside the other promises. Free slots give up their rows for it, the longest
unused first. Within the capacity, residues stay while they are the latest quarter of it; other rows that were
not reused in KEEP_SECONDS go back to the operating system.

Saved rows do not count to the capacity; they are limited to a quarter of it.

Decoding sequences lie in a prefix of the slots, so that a step runs on one view without a copy. A sequence in
prefill may lie within this prefix: its slot runs as padding, and only its row `computed` is written. With
CUDA graphs, free slots beyond the prefix run as padding too: see `padding_row`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from numpy.typing import NDArray

from runtime.errors import IntegrityError
from runtime.memory import CacheLayout, HostKvMemory, KvMemory
from runtime.request_state import Sequence, SequenceStatus

__all__ = ["CacheLayout", "KvCache"]

MakeMemory = Callable[[CacheLayout, int, int], KvMemory]

KEEP_SECONDS = 10.0
# Between two searches for idle rows: after one that found none, and after one that gave rows back.
RECLAIM_SECONDS = 1.0
RECLAIM_AGAIN_SECONDS = 0.1
RESIDUE_SHARE = 4  # residues may stay while they are at most this fraction (1 / 4) of the capacity
SAVED_SHARE = 4  # saved rows are at most this fraction (1 / 4) of the capacity, beside it
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
        """`max_tokens` limits the rows of all slots together; None or 0: all rows of all slots."""
        self.context_length = context_length
        self.num_slots = num_slots
        self.capacity = min(max_tokens or num_slots * context_length, num_slots * context_length)
        self.reused_tokens = 0
        self.num_preempted = 0  # how often `save` was called
        self.memory = make_memory(layout, num_slots, context_length)
        self._next_reclaim = 0.0  # on the monotonic clock, seconds
        self.clear()

    def clear(self) -> None:
        """Drop all owners and all rows."""
        for slot in range(self.num_slots):
            self.memory.give_back(slot, 0, self.context_length)
        self._owners: list[Sequence | None] = [None] * self.num_slots
        self._residues: list[list[int]] = [[] for _ in range(self.num_slots)]
        self._freed = [0.0] * self.num_slots  # when a slot was last freed, on the monotonic clock
        self._touched = [0] * self.num_slots  # rows of each slot that may hold memory
        self.num_taken = 0
        self.promised = 0  # rows promised to all sequences in slots
        self.resident = 0  # rows promised, or that may hold memory
        self.saved = 0  # rows of preempted sequences
        self.dirty = False  # some rows may have to be given back

    @property
    def num_free(self) -> int:
        """Slots without a sequence."""
        return self.num_slots - self.num_taken

    @property
    def buffers(self) -> list[NDArray[Any]]:
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

    def fits(self, sequence: Sequence, without: Collection[Sequence] = ()) -> bool:
        """Whether there is a slot, and room for all the rows that it may need, once others have left."""
        promised = self.promised - sum(one.need for one in without)
        return self.num_free + len(without) > 0 and promised + sequence.need <= self.capacity

    def shared_prefix(self, sequence: Sequence) -> tuple[int, int]:
        """How many of its tokens have rows in the cache: now, and once the prompts in slots were run."""
        now = max(self._longest_prefix(sequence, free=free)[1] for free in (False, True))
        limits = ((one.tokens, min(one.end, sequence.reusable)) for one in self.owners)
        later = (_common_prefix(tokens, sequence.tokens, limit) for tokens, limit in limits)
        return now, max(later, default=0)

    def can_save(self, sequences: Collection[Sequence]) -> bool:
        """Whether the rows of these may be saved beside those that are."""
        return self.saved + sum(one.computed for one in sequences) <= self.capacity // SAVED_SHARE

    def save(self, sequence: Sequence) -> None:
        """Free the slot of a sequence that will go on later; `allocate` gives it its rows back."""
        sequence.saved_rows = self.memory.read_rows(sequence.slot, sequence.computed)
        self.saved += sequence.computed
        self.num_preempted += 1
        self.deallocate(sequence)

    def drop_saved(self, sequence: Sequence) -> None:
        """Forget the saved rows of the sequence, if it has some."""
        if sequence.saved_rows is not None:
            sequence.saved_rows = None
            self.saved -= sequence.computed

    def allocate(self, sequence: Sequence) -> None:
        """Give the sequence a slot, with its saved rows or those of its longest prefix in the cache."""
        if sequence.saved_rows is None:
            self._reuse_prefix(sequence)
        else:
            self._take(self._owners.index(None), sequence)
            self._make_room()
            self.memory.write_rows(sequence.slot, sequence.saved_rows)
            self.drop_saved(sequence)
        self.num_taken += 1
        self.promised += sequence.need

    def _reuse_prefix(self, sequence: Sequence) -> None:
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
        self.reused_tokens += length

    def deallocate(self, sequence: Sequence) -> None:
        """Free the slot; its rows stay until another sequence needs the space."""
        self._leave(sequence.slot, sequence)
        self._residues[sequence.slot] = sequence.tokens[: sequence.computed]
        sequence.slot = -1
        self.num_taken -= 1
        self.promised -= sequence.need

    def decoding_rows(self) -> list[Sequence]:
        """Move sequences into the holes below the last decoding one; returns those of slots 0 up to it."""
        last = self._last_decoding()
        while None in self._owners and (hole := self._owners.index(None)) < last:
            self._move(last, hole)
            last = self._last_decoding()
        return [owner for owner in self._owners[: last + 1] if owner is not None]

    def padding_row(self, slot: int) -> int:
        """The row that a run may write in a slot that is padding: the first row that holds nothing.

        If all rows hold something, the last one: it is never reused, as every sequence runs its last token.
        """
        owner = self._owners[slot]
        held = len(self._residues[slot]) if owner is None else owner.computed
        return min(held, self.context_length - 1)

    @property
    def reclaim_due(self) -> float | None:
        """When to call `reclaim_idle` next, on the monotonic clock. None: there is nothing to give back."""
        return self._next_reclaim if self.dirty else None

    def reclaim_idle(self, now: float) -> None:
        """Give back rows that were not reused in KEEP_SECONDS, if the last search is long enough ago."""
        if now >= self._next_reclaim:
            found = self.reclaim(now - KEEP_SECONDS)
            self._next_reclaim = now + (RECLAIM_AGAIN_SECONDS if found else RECLAIM_SECONDS)

    def reclaim(self, before: float) -> bool:
        """Give back the rows of one slot that was freed before this time; whether there was one.

        Only one: for a long slot of a large model it takes milliseconds, in which no sequence runs.
        """
        room = self.capacity // RESIDUE_SHARE
        free = [slot for slot, owner in enumerate(self._owners) if owner is None and self._touched[slot]]
        self.dirty = False
        for slot in sorted(free, key=self._freed.__getitem__, reverse=True):
            kept = len(self._residues[slot])
            room -= kept
            if room < 0:
                room, kept = room + kept, 0
            if kept == 0 or self._touched[slot] - kept > self.memory.rows_per_page:
                self.dirty = True
                if self._freed[slot] <= before:
                    self._give_back(slot, kept)
                    return True
        return False

    def check_integrity(self) -> None:
        """Raise IntegrityError if the table at the head of this file does not hold."""
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
        if owner.slot != slot or owner.status is not SequenceStatus.RUNNING:
            raise IntegrityError(
                f"slot {slot} belongs to a sequence {owner.status.value} in slot {owner.slot}"
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
        """Free the slot; a step may have written one row beyond those of the sequence."""
        self.resident -= self._held(slot)
        self._owners[slot] = None
        self._touched[slot] = max(self._touched[slot], min(sequence.computed + 1, sequence.need))
        self._freed[slot] = time.monotonic()
        self.resident += self._touched[slot]
        self.dirty = True

    def _make_room(self) -> None:
        """Give back rows without owner until the others fit: garbage first, then the oldest residues."""
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
        """(slot, length) of the free or of the taken slot with the longest common prefix."""
        best, longest = -1, 0
        for slot, owner in enumerate(self._owners):
            if (owner is None) is not free:
                continue
            held = self._residues[slot] if owner is None else owner.tokens
            limit = min(len(held) if owner is None else owner.computed, sequence.reusable)
            if limit <= longest or held[longest] != sequence.tokens[longest]:
                continue  # it cannot be longer than the longest so far
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
    """Number of leading tokens that both share, at most `limit`."""
    for begin in range(0, limit, _COMPARED_AT_ONCE):
        end = min(begin + _COMPARED_AT_ONCE, limit)
        if left[begin:end] != right[begin:end]:
            return next(place for place in range(begin, end) if left[place] != right[place])
    return limit
