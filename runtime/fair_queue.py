"""Who waits for a slot, and whose turn it is.

Priorities are strict: nobody waits behind a higher number. Within one priority the callers take turns by
start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queuing", 1996, section 2), measured in
tokens: each turn begins at a virtual time, costs the KV rows that its sequence may need, and the caller whose
next turn begins first is next. Hence

- a sequence of a caller who was not there before waits for at most one turn of every other caller;
- two callers who wait all the time are served the same number of tokens, but for one turn of each.

What a sequence was charged and did not use is given back when it ends, yet never so far that its caller had
credit from the past. A caller with nothing under way is forgotten: it owes nothing and is owed nothing.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Iterable

from runtime.errors import IntegrityError
from runtime.sequence import Sequence, SequenceState

_STALE_ENTRIES = 16  # of a heap, beyond as many as there are callers, before it is swept


class _Account:
    """One caller within one priority."""

    __slots__ = ("running", "start", "ticket", "waiting")

    def __init__(self, start: int) -> None:
        self.start = start  # of the next turn, virtual tokens
        self.ticket = 0  # names the one entry of the heap that counts; 0: none does
        self.running = 0  # sequences that had their turn and are not over
        self.waiting: OrderedDict[Sequence, None] = OrderedDict()  # any of them leaves in constant time


class _Level:
    """One priority."""

    __slots__ = ("accounts", "now", "num_tickets", "turns")

    def __init__(self) -> None:
        self.now = 0  # where the last turn began, virtual tokens
        self.accounts: dict[str, _Account] = {}
        self.turns: list[tuple[int, int, _Account]] = []  # a heap of (start, ticket, account)
        self.num_tickets = 0

    def line_up(self, account: _Account) -> None:
        """Of equal starts the first to line up is first."""
        if len(self.turns) > 2 * len(self.accounts) + _STALE_ENTRIES:
            self.turns = [turn for turn in self.turns if turn[1] == turn[2].ticket]
            heapq.heapify(self.turns)
        self.num_tickets += 1
        account.ticket = self.num_tickets
        heapq.heappush(self.turns, (account.start, account.ticket, account))

    def first(self) -> _Account | None:
        while self.turns and self.turns[0][1] != self.turns[0][2].ticket:
            heapq.heappop(self.turns)
        return self.turns[0][2] if self.turns else None


class FairQueue:
    """Sequences that wait, of thousands of callers; every operation takes logarithmic time at most."""

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}
        self._open: list[int] = []  # priorities that somebody waits at, ascending
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def add(self, sequence: Sequence) -> None:
        level = self._levels.setdefault(sequence.priority, _Level())
        account = level.accounts.get(sequence.caller)
        if account is None:
            account = level.accounts[sequence.caller] = _Account(level.now)
        if not account.waiting:
            account.start = max(account.start, level.now)
            level.line_up(account)
            if sequence.priority not in self._open:
                insort(self._open, sequence.priority)
        account.waiting[sequence] = None
        self._num_waiting += 1

    def peek(self) -> Sequence | None:
        """Whose turn it is."""
        if not self._open:
            return None
        account = self._levels[self._open[0]].first()
        return None if account is None else next(iter(account.waiting))

    def pop(self) -> Sequence:
        """Take out the sequence whose turn it is, and charge its caller. `settle` it when it is over."""
        sequence = self.peek()
        if sequence is None:
            raise IntegrityError("nobody waits, yet somebody is to have a turn")
        level, account = self._books_of(sequence)
        level.now = account.start
        account.start += sequence.need
        account.running += 1
        del account.waiting[sequence]
        self._num_waiting -= 1
        if account.waiting:
            level.line_up(account)
        else:
            self._nobody_waits(sequence, level, account)
        return sequence

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence that waits, whose turn will not come."""
        level, account = self._books_of(sequence)
        del account.waiting[sequence]
        self._num_waiting -= 1
        if not account.waiting:
            self._nobody_waits(sequence, level, account)

    def settle(self, sequence: Sequence) -> None:
        """A sequence that had its turn is over: what it did not use is not its caller's to pay."""
        level, account = self._books_of(sequence)
        account.running -= 1
        unused = sequence.need - min(sequence.need, len(sequence.tokens))
        start = max(account.start - unused, level.now)
        if start < account.start:
            account.start = start
            if account.waiting:
                level.line_up(account)
        self._forget_idle(sequence, level, account)

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Raise IntegrityError where turns, callers and counts contradict each other, or those that run."""
        found = Counter((sequence.priority, sequence.caller) for sequence in running)
        for priority, level in self._levels.items():
            for caller, account in level.accounts.items():
                _check_account(priority, caller, account, found.pop((priority, caller), 0))
            entries = {(start, ticket) for start, ticket, _ in level.turns}
            waiting = [account for account in level.accounts.values() if account.waiting]
            if any((account.start, account.ticket) not in entries for account in waiting):
                raise IntegrityError(f"somebody waits at priority {priority} and has no turn")
            if bool(waiting) is not (priority in self._open) or not level.accounts:
                raise IntegrityError(f"priority {priority} is open or kept without need")
        if found:
            raise IntegrityError(f"sequences run of which the queue does not know: {dict(found)}")
        accounts = [account for level in self._levels.values() for account in level.accounts.values()]
        waiting_now = sum(len(account.waiting) for account in accounts)
        if waiting_now != self._num_waiting or self._open != sorted(set(self._open)):
            raise IntegrityError(f"{waiting_now} sequences wait, and {self._num_waiting} are counted")

    def _books_of(self, sequence: Sequence) -> tuple[_Level, _Account]:
        level = self._levels[sequence.priority]
        return level, level.accounts[sequence.caller]

    def _nobody_waits(self, sequence: Sequence, level: _Level, account: _Account) -> None:
        account.ticket = 0
        if level.first() is None:
            del self._open[bisect_left(self._open, sequence.priority)]
        self._forget_idle(sequence, level, account)

    def _forget_idle(self, sequence: Sequence, level: _Level, account: _Account) -> None:
        if not account.running and not account.waiting:
            del level.accounts[sequence.caller]
            if not level.accounts:
                del self._levels[sequence.priority]


def _check_account(priority: int, caller: str, account: _Account, running: int) -> None:
    where = f"caller {caller!r} of priority {priority}"
    if account.running != running or not (running or account.waiting):
        raise IntegrityError(f"{where} has {running} sequences in slots, and {account.running} are counted")
    if any((one.priority, one.caller) != (priority, caller) for one in account.waiting):
        raise IntegrityError(f"{where} has the sequence of another")
    if any(one.state is not SequenceState.WAITING or one.slot != -1 for one in account.waiting):
        raise IntegrityError(f"{where} has a sequence in the queue that does not wait")
    if bool(account.ticket) is not bool(account.waiting):
        raise IntegrityError(f"{where} has a turn and nothing waiting")
