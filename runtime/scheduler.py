"""Policy: who gets a slot, and what the next run of the graph is.

Admission is first come, first served. One prompt is prefilled at a time, in chunks at batch 1
(GroupQueryAttention refuses a chunk after a past in a larger batch). Between two decode steps of the running
sequences at most `prefill_chunk` prompt tokens are run: many short prompts, or one chunk of a long one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from runtime.contract import FinishReason
from runtime.errors import IntegrityError
from runtime.kv_cache import KvCache
from runtime.sequence import Sequence, SequenceState


@dataclass(frozen=True, slots=True)
class Prefill:
    """The next `count` prompt tokens of one sequence."""

    sequence: Sequence
    count: int

    @property
    def sequences(self) -> list[Sequence]:
        return [self.sequence]

    @property
    def num_wanted(self) -> int:
        """Output rows: those of the last `num_wanted` tokens of this chunk."""
        stop = self.sequence.computed + self.count
        return max(0, stop - max(self.sequence.computed, self.sequence.first_wanted))


@dataclass(frozen=True, slots=True)
class Decode:
    """One token of each sequence in slots 0, 1, ...; those in `wanted` decode, the others ride along."""

    rows: list[Sequence]
    wanted: list[int]

    @property
    def sequences(self) -> list[Sequence]:
        return [self.rows[row] for row in self.wanted]


Batch = Prefill | Decode


class Scheduler:
    def __init__(self, cache: KvCache, prefill_chunk: int) -> None:
        self.cache = cache
        self.waiting: deque[Sequence] = deque()
        self._prefill_chunk = prefill_chunk
        self._prefilling: Sequence | None = None
        self._allowance = prefill_chunk  # prompt tokens that may be run before the next decode step

    @property
    def num_running(self) -> int:
        return self.cache.num_taken

    @property
    def has_work(self) -> bool:
        return bool(self.waiting) or self.num_running > 0

    def add(self, sequences: Iterable[Sequence]) -> None:
        self.waiting.extend(sequences)

    def remove(self, sequence: Sequence, reason: FinishReason) -> None:
        """Finish a waiting or running sequence; its slot is free when this returns."""
        if sequence.state is SequenceState.WAITING:
            self.waiting.remove(sequence)
        elif sequence.state is SequenceState.RUNNING:
            self.cache.deallocate(sequence)
        if self._prefilling is sequence:
            self._prefilling = None
        sequence.state = SequenceState.FINISHED
        sequence.finish_reason = reason

    def schedule(self) -> Batch | None:
        """The next run, or None where nothing is left to do."""
        return self._next_prefill() or self._next_decode()

    def _next_prefill(self) -> Prefill | None:
        sequence = self._prefilling
        if sequence is None or sequence.is_decoding:
            sequence = self._prefilling = self._admit()
        if sequence is None:
            return None
        count = min(sequence.end - sequence.computed, self._prefill_chunk)
        if count > self._allowance and self.cache.has_decoding:
            return None
        self._allowance -= count
        return Prefill(sequence, count)

    def _next_decode(self) -> Decode | None:
        self._allowance = self._prefill_chunk
        rows = self.cache.decoding_rows()
        wanted = [row for row, sequence in enumerate(rows) if sequence.is_decoding]
        return Decode(rows, wanted) if wanted else None

    def _admit(self) -> Sequence | None:
        """Give slots away until a sequence needs prefill; one that finds its prefix cached may need none."""
        while self.waiting and self.cache.has_free:
            sequence = self.waiting.popleft()
            self.cache.allocate(sequence)
            sequence.state = SequenceState.RUNNING
            if not sequence.is_decoding:
                return sequence
        return None

    def check_integrity(self) -> None:
        """Raise IntegrityError where sequences, states and slots contradict each other."""
        self.cache.check_integrity()
        if any(s.state is not SequenceState.WAITING or s.slot != -1 for s in self.waiting):
            raise IntegrityError("a sequence in the queue is not waiting")
        if len({id(sequence) for sequence in self.waiting}) != len(self.waiting):
            raise IntegrityError("a sequence is in the queue twice")
        if self._prefilling is not None and self._prefilling.state is not SequenceState.RUNNING:
            raise IntegrityError("the sequence in prefill has no slot")
