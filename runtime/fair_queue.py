"""A fair queue: sequences that wait for a slot of the engine, and asynchronous tasks of the façade.

Priorities are strict: no entry waits behind one with a higher number. Within one priority the callers take
turns by start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queuing", 1996, section 2), measured
in tokens. Each turn begins at a virtual time and costs what its entry may need; the next turn is that of the
caller whose turn begins first. It follows that

- an entry of a new caller waits for at most one turn of every other caller;
- two callers who always have entries waiting are served the same number of tokens, up to one turn of each.

Where places for running entries are short, the scheduler may take out of turn the entry of the caller that
has the fewest of them (`peek_poorest`), and put back one that runs (`put_back`).

When an entry ends, its caller gets back what the entry was charged and did not use, but never so much that
the caller had credit from the past. A caller without waiting or running entries is forgotten, with its debt.

Standard library only: the façade imports this file too.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from runtime.errors import IntegrityError

# A heap is swept when it has this number of entries more than twice the number of callers.
_STALE_ENTRIES = 16


class Entry(Hashable, Protocol):
    """What waits. It must not change while it waits."""

    @property
    def priority(self) -> int: ...

    @property
    def caller(self) -> str:
        """Who is charged for it."""

    @property
    def need(self) -> int:
        """The most that it may cost, in tokens."""


E = TypeVar("E", bound=Entry)


class _Account(Generic[E]):
    """One caller within one priority."""

    __slots__ = ("running", "start", "ticket", "waiting")

    def __init__(self, start: int) -> None:
        self.start = start  # of the next turn, virtual tokens
        self.ticket = 0  # of its valid entry in the heap; 0: there is none
        self.running = 0  # entries that had their turn and have not ended
        self.waiting: OrderedDict[E, None] = OrderedDict()  # any entry is removed in constant time


class _Level(Generic[E]):
    """One priority."""

    __slots__ = ("accounts", "now", "num_tickets", "turns")

    def __init__(self) -> None:
        self.now = 0  # where the last turn began, virtual tokens
        self.accounts: dict[str, _Account[E]] = {}
        self.turns: list[tuple[int, int, _Account[E]]] = []  # a heap of (start, ticket, account)
        self.num_tickets = 0

    def schedule_turn(self, account: _Account[E]) -> None:
        """Of equal starts, the one that was scheduled first comes first."""
        if len(self.turns) > 2 * len(self.accounts) + _STALE_ENTRIES:
            self.turns = [turn for turn in self.turns if turn[1] == turn[2].ticket]
            heapq.heapify(self.turns)
        self.num_tickets += 1
        account.ticket = self.num_tickets
        heapq.heappush(self.turns, (account.start, account.ticket, account))

    def first(self) -> _Account[E] | None:
        while self.turns and self.turns[0][1] != self.turns[0][2].ticket:
            heapq.heappop(self.turns)
        return self.turns[0][2] if self.turns else None


class FairQueue(Generic[E]):
    """Waiting entries of thousands of callers; every operation takes logarithmic time at most."""

    def __init__(self) -> None:
        self._levels: dict[int, _Level[E]] = {}
        self._open: list[int] = []  # priorities with waiting entries, ascending
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def __iter__(self) -> Iterator[E]:
        """All waiting entries, in no order."""
        for level in self._levels.values():
            for account in level.accounts.values():
                yield from account.waiting

    def add(self, entry: E) -> None:
        level = self._levels.setdefault(entry.priority, _Level())
        account = level.accounts.get(entry.caller)
        if account is None:
            account = level.accounts[entry.caller] = _Account(level.now)
        self._await_turn(entry, level, account)

    def put_back(self, entry: E) -> None:
        """An entry that had its turn waits again, before the others of its caller.

        The caller gets its charge back, and is charged at the next turn.
        """
        level, account = self._find(entry)
        account.running -= 1
        account.start -= entry.need
        account.ticket = 0  # the turn that it has begins too late
        self._await_turn(entry, level, account)
        account.waiting.move_to_end(entry, last=False)

    def peek(self) -> E | None:
        """The entry whose turn it is."""
        if not self._open:
            return None
        account = self._levels[self._open[0]].first()
        return None if account is None else next(iter(account.waiting))

    def peek_poorest(self) -> E | None:
        """Of the most urgent waiting entries, the first one of the caller with the fewest running entries."""
        if not self._open:
            return None
        accounts = self._levels[self._open[0]].accounts.values()
        waiting = [account for account in accounts if account.waiting]
        poorest = min(waiting, key=lambda account: (account.running, account.start, account.ticket))
        return next(iter(poorest.waiting))

    def pop(self, entry: E | None = None) -> E:
        """Remove the entry whose turn it is, and charge its caller. Call `settle` when the entry ends.

        With `entry`, which `peek_poorest` returned: that one, although it may be another one's turn.
        """
        first = self.peek()
        if first is None:
            raise IntegrityError("a turn was asked for, but no entry waits")
        entry = first if entry is None else entry
        level, account = self._find(entry)
        if entry is first:
            level.now = account.start
        account.start += entry.need
        account.running += 1
        del account.waiting[entry]
        self._num_waiting -= 1
        if account.waiting:
            level.schedule_turn(account)
        else:
            self._after_last_waiting(entry, level, account)
        return entry

    def remove(self, entry: E) -> None:
        """Remove a waiting entry before its turn."""
        level, account = self._find(entry)
        del account.waiting[entry]
        self._num_waiting -= 1
        if not account.waiting:
            self._after_last_waiting(entry, level, account)

    def settle(self, entry: E, used: int) -> None:
        """An entry that had its turn has ended: give back to its caller what it did not use."""
        level, account = self._find(entry)
        account.running -= 1
        unused = entry.need - min(entry.need, used)
        start = max(account.start - unused, level.now)
        if start < account.start:
            account.start = start
            if account.waiting:
                level.schedule_turn(account)
        self._forget_idle(entry, level, account)

    def check_integrity(self, running: Iterable[E]) -> None:
        """Raise IntegrityError if turns, callers, counts and the running entries contradict each other."""
        found = Counter((entry.priority, entry.caller) for entry in running)
        for priority, level in self._levels.items():
            for caller, account in level.accounts.items():
                _check_account(priority, caller, account, found.pop((priority, caller), 0))
            entries = {(start, ticket) for start, ticket, _ in level.turns}
            waiting = [account for account in level.accounts.values() if account.waiting]
            if any((account.start, account.ticket) not in entries for account in waiting):
                raise IntegrityError(f"a caller with waiting entries at priority {priority} has no turn")
            if bool(waiting) is not (priority in self._open) or not level.accounts:
                raise IntegrityError(
                    f"priority {priority} is open without waiting entries, or has no callers"
                )
        if found:
            raise IntegrityError(f"running entries that the queue does not know: {dict(found)}")
        accounts = [account for level in self._levels.values() for account in level.accounts.values()]
        waiting_now = sum(len(account.waiting) for account in accounts)
        if waiting_now != self._num_waiting or self._open != sorted(set(self._open)):
            raise IntegrityError(f"{waiting_now} entries wait, and {self._num_waiting} are counted")

    def _await_turn(self, entry: E, level: _Level[E], account: _Account[E]) -> None:
        if not account.ticket:
            account.start = max(account.start, level.now)
            level.schedule_turn(account)
            if entry.priority not in self._open:
                insort(self._open, entry.priority)
        account.waiting[entry] = None
        self._num_waiting += 1

    def _find(self, entry: E) -> tuple[_Level[E], _Account[E]]:
        level = self._levels[entry.priority]
        return level, level.accounts[entry.caller]

    def _after_last_waiting(self, entry: E, level: _Level[E], account: _Account[E]) -> None:
        account.ticket = 0
        if level.first() is None:
            del self._open[bisect_left(self._open, entry.priority)]
        self._forget_idle(entry, level, account)

    def _forget_idle(self, entry: E, level: _Level[E], account: _Account[E]) -> None:
        if not account.running and not account.waiting:
            del level.accounts[entry.caller]
            if not level.accounts:
                del self._levels[entry.priority]


def _check_account(priority: int, caller: str, account: _Account[E], running: int) -> None:
    where = f"caller {caller!r} of priority {priority}"
    if account.running != running or not (running or account.waiting):
        raise IntegrityError(f"{where} has {running} entries under way, and {account.running} are counted")
    if any((one.priority, one.caller) != (priority, caller) for one in account.waiting):
        raise IntegrityError(f"{where} has an entry of another caller")
    if bool(account.ticket) is not bool(account.waiting):
        raise IntegrityError(f"{where} has a turn and no waiting entry, or the reverse")
