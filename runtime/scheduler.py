"""Policy: who gets a slot, and what the next run of the graph is.

Admission is by priority, then by turns of the callers (runtime/fair_queue.py). Whose turn it is waits for a
slot and for room in the KV cache, and is not overtaken by somebody who needs less: a long request would never
come in. A slot is never taken away again.

One prompt is prefilled at a time, in chunks at batch 1 (GroupQueryAttention refuses a chunk after a past in a
larger batch); only a more urgent one is put before it. Between two decode steps of the running sequences at
most `prefill_chunk` prompt tokens are run: many short prompts, or one chunk of a long one. It is at most
`beside_decode` tokens while nobody waits behind: more steps for the whole, and shorter gaps for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from runtime.contract import FinishReason
from runtime.errors import IntegrityError
from runtime.fair_queue import FairQueue
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
    def __init__(self, cache: KvCache, prefill_chunk: int, left_queue: Callable[[Sequence], None]) -> None:
        """`left_queue` is told once of every sequence that waits no more."""
        self.cache = cache
        self.queue = FairQueue()
        self._left_queue = left_queue
        self._prefill_chunk = prefill_chunk
        self.beside_decode = prefill_chunk  # the most between decode steps where nobody waits behind a prompt
        self._prefilling: list[Sequence] = []  # the most urgent last; the others wait for it, in their slots
        self._chunk = self._allowance = prefill_chunk  # of one run, and of all before the next decode step

    @property
    def num_running(self) -> int:
        return self.cache.num_taken

    @property
    def has_work(self) -> bool:
        return len(self.queue) > 0 or self.num_running > 0

    def add(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self.queue.add(sequence)

    def remove(self, sequence: Sequence, reason: FinishReason) -> None:
        """Finish a waiting or running sequence; its slot is free when this returns."""
        if sequence.state is SequenceState.WAITING:
            self.queue.remove(sequence)
            self._left_queue(sequence)
        elif sequence.state is SequenceState.RUNNING:
            self.cache.deallocate(sequence)
            self.queue.settle(sequence)
        if sequence in self._prefilling:
            self._prefilling.remove(sequence)
        sequence.state = SequenceState.FINISHED
        sequence.finish_reason = reason

    def schedule(self) -> Batch | None:
        """The next run, or None where nothing is left to do."""
        return self._next_prefill() or self._next_decode()

    def _next_prefill(self) -> Prefill | None:
        if self._prefilling and self._prefilling[-1].is_decoding:
            self._prefilling.pop()
        self._admit()
        if not self._prefilling:
            return None
        sequence = self._prefilling[-1]
        disturbs = self.cache.has_decoding
        rest = sequence.end - sequence.computed
        count = min(rest, self._chunk if disturbs else self._prefill_chunk)
        if rest - count == 1 and count > 2:  # a run of one token rounds otherwise, and cuts must not show
            count -= 1
        if count > self._allowance and disturbs:
            return None
        self._allowance -= count
        return Prefill(sequence, count)

    def _next_decode(self) -> Decode | None:
        others_wait = len(self.queue) > 0
        self._chunk = self._prefill_chunk if others_wait else self.beside_decode
        self._allowance = self._chunk
        rows = self.cache.decoding_rows()
        wanted = [row for row, sequence in enumerate(rows) if sequence.is_decoding]
        return Decode(rows, wanted) if wanted else None

    def _admit(self) -> None:
        """Give slots away until a sequence needs prefill; one that finds its prefix cached may need none."""
        while (sequence := self.queue.peek()) is not None and self._may_start(sequence):
            self.queue.pop()
            self._left_queue(sequence)
            sequence.state = SequenceState.RUNNING
            self.cache.allocate(sequence)
            if not sequence.is_decoding:
                self._prefilling.append(sequence)

    def _may_start(self, sequence: Sequence) -> bool:
        urgent = not self._prefilling or sequence.priority < self._prefilling[-1].priority
        return urgent and self.cache.fits(sequence)

    def check_integrity(self) -> None:
        """Raise IntegrityError where sequences, states, turns and slots contradict each other."""
        self.cache.check_integrity()
        self.queue.check_integrity(self.cache.owners)
        if any(sequence.state is not SequenceState.RUNNING for sequence in self._prefilling):
            raise IntegrityError("a sequence in prefill has no slot")
        priorities = [sequence.priority for sequence in self._prefilling]
        if any(below <= above for below, above in pairwise(priorities)):
            raise IntegrityError("prompts are not prefilled in the order of their priorities")
