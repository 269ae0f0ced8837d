"""Policy: which sequence gets a slot, and what the next run of the graph is.

Sequences get slots by priority, then by fair queueing between callers (runtime/fair_queue.py). The head of
the queue blocks until a slot and room in the KV cache are free. Nothing overtakes it, so that a long request
cannot starve.

One caller may hold all slots while no other caller waits. Where slots or rows are short, the waiting caller
that holds the fewest slots is next, and takes one from the caller that holds the most, if that one holds at
least two more: so callers who wait come to hold equally many. The sequence that loses its slot is the latest
one; it is preempted: its rows of the KV cache are saved, it waits before its caller's other sequences, and
goes on where it was. A caller with a more urgent priority never loses a slot to one with a less urgent one.

Prompts run in chunks, the most urgent first. Where rows of a run can differ in length (`packs`), a run has
chunks of several prompts, and the next token of every sequence that decodes. A prompt that begins like one in
prefill waits until it finds its rows in the cache. Without `packs` one prompt is prefilled at a time, alone
(GroupQueryAttention refuses a chunk after a past in a larger batch), and sequences decode in other runs.

From one token of a running sequence to its next at most `prefill_chunk` prompt tokens run. For a prompt that
is the only one, the limit is the chunk budget: it takes more steps then, and running sequences have shorter
gaps between their tokens.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from runtime.contract import FinishReason, Operation
from runtime.errors import IntegrityError
from runtime.fair_queue import FairQueue
from runtime.kv_cache import KvCache
from runtime.request_state import Sequence, SequenceStatus

CHUNK_DECODE_STEPS = 3  # a chunk of a prompt takes about as long as this number of decode steps
MIN_CHUNK = 32  # tokens; below, a run costs more than its tokens do
CHUNK_MULTIPLE = 8  # rows that the operators compute together
SHARED_TOKENS = 8  # of a prompt that begins like one in prefill: to find their rows, it waits
MEAN_DECAY = 0.8  # the weight of the old mean when a new run is measured


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `count` tokens of one sequence."""

    sequence: Sequence
    count: int

    @property
    def num_wanted(self) -> int:
        """Output rows: those of the last `num_wanted` tokens of this chunk."""
        stop = self.sequence.computed + self.count
        return max(0, stop - max(self.sequence.computed, self.sequence.first_wanted))


@dataclass(frozen=True, slots=True)
class Prefill:
    """Chunks of prompts, then the next token of each sequence that decodes beside them.

    All of them want logits, or all of them hidden states.
    """

    chunks: list[Chunk]

    @property
    def sequences(self) -> list[Sequence]:
        return [chunk.sequence for chunk in self.chunks]

    @property
    def num_tokens(self) -> int:
        return sum(chunk.count for chunk in self.chunks)

    @property
    def embeds(self) -> bool:
        """Whether hidden states are wanted."""
        return _embeds(self.chunks[0].sequence)


@dataclass(frozen=True, slots=True)
class Decode:
    """One token of each sequence in slots 0, 1, ...; only the output rows in `wanted` are used."""

    rows: list[Sequence]
    wanted: list[int]

    @property
    def sequences(self) -> list[Sequence]:
        return [self.rows[row] for row in self.wanted]


Batch = Prefill | Decode


class ChunkBudget:
    """How many prompt tokens may run between two decode steps, from the mean times of recent runs."""

    def __init__(self) -> None:
        self.step: float | None = None  # seconds of a decode step
        self.token: float | None = None  # seconds of a prompt token

    def note(self, batch: Batch, seconds: float) -> None:
        """The run of `batch` took `seconds`."""
        if isinstance(batch, Decode):
            self.step = _mean(self.step, seconds)
        elif batch.num_tokens >= MIN_CHUNK:
            self.token = _mean(self.token, seconds / batch.num_tokens)

    def tokens(self, most: int) -> int:
        """At most `most`; exactly that until both kinds of run were measured."""
        if self.step is None or self.token is None:
            return most
        tokens = int(CHUNK_DECODE_STEPS * self.step / self.token) // CHUNK_MULTIPLE * CHUNK_MULTIPLE
        return min(most, max(MIN_CHUNK, tokens))


def _holder(sequence: Sequence) -> tuple[int, str]:
    """Who is counted for its slot, as in the fair queue."""
    return sequence.priority, sequence.caller


def _embeds(sequence: Sequence) -> bool:
    return sequence.operation is Operation.EMBED


def _mean(old: float | None, new: float) -> float:
    return new if old is None else MEAN_DECAY * old + (1 - MEAN_DECAY) * new


class Scheduler:
    def __init__(
        self,
        cache: KvCache,
        prefill_chunk: int,
        left_queue: Callable[[Sequence], None],
        *,
        packs: bool = False,
    ) -> None:
        """`left_queue` is called once for every sequence, when it stops waiting.

        `packs` says whether one run may have several prompts, and decoding rows beside them.
        """
        self.cache = cache
        self.queue: FairQueue[Sequence] = FairQueue()
        self._left_queue = left_queue
        self._prefill_chunk = prefill_chunk
        self._budget = ChunkBudget()
        # Prompt tokens between decode steps, at most, while nothing waits behind the prompt.
        self.beside_decode = prefill_chunk
        self._packs = packs
        self._prefilling: list[Sequence] = []  # in slots, the most urgent first
        self._since_decode = 0  # prompt tokens that ran since the sequences that decode had a token

    @property
    def num_running(self) -> int:
        return self.cache.num_taken

    @property
    def step_seconds(self) -> float | None:
        """The mean of the latest decode steps; None until one was measured."""
        return self._budget.step

    @property
    def token_seconds(self) -> float | None:
        """The mean of the latest prompt tokens that were run; None until some were measured."""
        return self._budget.token

    @property
    def has_work(self) -> bool:
        return len(self.queue) > 0 or self.num_running > 0

    def add(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self.queue.add(sequence)

    def remove(self, sequence: Sequence, reason: FinishReason) -> None:
        """Finish a waiting or running sequence; its slot is free when this returns."""
        if sequence.status is SequenceStatus.WAITING:
            self.queue.remove(sequence)
            if sequence.saved_rows is None:
                self._left_queue(sequence)
            self.cache.drop_saved(sequence)
        elif sequence.status is SequenceStatus.RUNNING:
            self.cache.deallocate(sequence)
            self.queue.settle(sequence, len(sequence.tokens))
        if sequence in self._prefilling:
            self._prefilling.remove(sequence)
        sequence.status = SequenceStatus.FINISHED
        sequence.finish_reason = reason

    def schedule(self) -> Batch | None:
        """The next run, or None if there is nothing to run."""
        return self._next_prefill() or self._next_decode()

    def note_run(self, batch: Batch, seconds: float) -> None:
        """The graph ran `batch` in `seconds`: chunks follow the measured speed."""
        self._budget.note(batch, seconds)
        self.beside_decode = self._budget.tokens(self._prefill_chunk)

    def _next_prefill(self) -> Prefill | None:
        self._prefilling = [one for one in self._prefilling if not one.is_decoding]
        disturbs = self.cache.has_decoding
        is_lone = len(self._prefilling) + len(self.queue) == 1
        room = self.beside_decode if disturbs and is_lone else self._prefill_chunk
        self._admit(room)
        chunks = self._chunks(room)
        count = sum(chunk.count for chunk in chunks)
        if not chunks or (disturbs and self._since_decode + count > room):
            return None
        self._since_decode += count
        if self._packs and not _embeds(chunks[0].sequence):
            chunks += [Chunk(one, 1) for one in self.cache.owners if one.is_decoding]
            self._since_decode = 0
        return Prefill(chunks)

    def _chunks(self, room: int) -> list[Chunk]:
        """What runs next of the prompts in slots, `room` tokens at most."""
        chunks: list[Chunk] = []
        for sequence in self._prefilling if self._packs else self._prefilling[:1]:
            if chunks and _embeds(sequence) is not _embeds(chunks[0].sequence):
                continue
            rest = sequence.end - sequence.computed
            count = min(rest, room)
            # A run of one token rounds differently: answers must not depend on where a prompt is cut.
            if rest - count == 1 and count > 2:
                count -= 1
            if chunks and count <= 2 and count < rest:
                continue
            chunks.append(Chunk(sequence, count))
            room -= count
        return chunks

    def _next_decode(self) -> Decode | None:
        self._since_decode = 0
        rows = self.cache.decoding_rows()
        wanted = [row for row, sequence in enumerate(rows) if sequence.is_decoding]
        return Decode(rows, wanted) if wanted else None

    def _admit(self, room: int) -> None:
        """Give out slots until there are `room` prompt tokens to run; some may need no prefill."""
        while (sequence := self._next_to_start(room)) is not None:
            self.queue.pop(sequence)
            if sequence.saved_rows is None:
                self._left_queue(sequence)
            sequence.status = SequenceStatus.RUNNING
            self.cache.allocate(sequence)
            if not sequence.is_decoding:
                insort(self._prefilling, sequence, key=lambda one: one.priority)

    def _next_to_start(self, room: int) -> Sequence | None:
        """The waiting sequence that gets a slot now; there is one for it."""
        first = self.queue.peek()
        if first is None or self._must_wait(first, room):
            return None
        if self.cache.num_free > 1 and self.cache.fits(first):
            return first
        poorest = self.queue.peek_poorest()  # the last slot is not for a caller that would lose it again
        if (
            poorest is None
            or self._must_wait(poorest, room)
            or not (self.cache.fits(poorest) or self._make_way(poorest))
        ):
            return None
        return poorest

    def _must_wait(self, sequence: Sequence, room: int) -> bool:
        """Whether prompts in slots fill the next run, or will leave rows for this one."""
        before = [one for one in self._prefilling if one.priority <= sequence.priority]
        if not self._packs or sum(one.end - one.computed for one in before) >= room:
            return bool(before)
        if not before or sequence.saved_rows is not None:
            return False
        found, later = self.cache.shared_prefix(sequence)
        return later - found >= min(SHARED_TOKENS, (sequence.end - found + 1) // 2)

    def _make_way(self, sequence: Sequence) -> bool:
        """Preempt sequences of callers that hold more slots until this one fits; whether it does then."""
        held = Counter(map(_holder, self.cache.owners))
        own = held[_holder(sequence)]
        rows = [one for one in self.cache.owners if one.is_decoding and one.priority >= sequence.priority]
        latest_last = sorted(rows, key=lambda one: (one.state.request.arrived, one.index))
        leaving: list[Sequence] = []
        while not self.cache.fits(sequence, leaving):
            richest = max(latest_last, key=lambda one: held[_holder(one)], default=None)
            if richest is None or held[_holder(richest)] < own + 2:
                return False
            latest = next(one for one in reversed(latest_last) if _holder(one) == _holder(richest))
            latest_last.remove(latest)
            leaving.append(latest)
            held[_holder(latest)] -= 1
        if not self.cache.can_save(leaving):
            return False
        for one in leaving:
            self._preempt(one)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.cache.save(sequence)
        self.queue.put_back(sequence)
        sequence.status = SequenceStatus.WAITING

    def check_integrity(self) -> None:
        """Raise IntegrityError if sequences, statuses, turns and slots contradict each other."""
        self.cache.check_integrity()
        self.queue.check_integrity(self.cache.owners)
        if any(one.status is not SequenceStatus.WAITING or one.slot != -1 for one in self.queue):
            raise IntegrityError("a sequence in the queue does not wait")
        saved = sum(one.computed for one in self.queue if one.saved_rows is not None)
        if saved != self.cache.saved:
            raise IntegrityError(f"{saved} rows are saved, and {self.cache.saved} are counted")
        if any(sequence.status is not SequenceStatus.RUNNING for sequence in self._prefilling):
            raise IntegrityError("a sequence in prefill has no slot")
        priorities = [sequence.priority for sequence in self._prefilling]
        if any(first > second for first, second in pairwise(priorities)):
            raise IntegrityError("prompts are not prefilled in the order of their priorities")
