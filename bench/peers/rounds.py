"""The measurement: every peer does the same work in turn, round after round.

A round goes through all prompt lengths and batch sizes. For each, the peers run one after the other with the
same new prompts, and each round begins with another peer: other load on the machine affects all equally.
Where that load was high, all repeat the work. Work that takes less than a second is done several times.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.peers.catalogue import Peer
from bench.peers.material import PromptSource
from bench.peers.protocol import Run
from bench.peers.worker import Worker, order_for
from runtime.contract import TOKENIZER_FILE

LEAST_SECONDS = 1.0  # of work of a peer on a cell in a round; it runs again with other prompts until then
MOST_RUNS = 8  # of a peer on a cell in a round
TRIES = 3  # of a cell in a round
DISTURBED = 0.1  # of all cores: more, and it is done again


@dataclass(frozen=True, slots=True)
class Sweep:
    """Every prompt length with every batch size, `rounds` times."""

    prompt_lengths: tuple[int, ...]
    batches: tuple[int, ...]
    rounds: int  # counted ones, after one that warms up
    new_tokens: int
    threads: int

    @property
    def cells(self) -> list[Cell]:
        return [Cell(length, batch) for length in self.prompt_lengths for batch in self.batches]


@dataclass(frozen=True, slots=True)
class Cell:
    """One piece of work."""

    prompt_length: int
    batch: int

    def __str__(self) -> str:
        return f"prompt {self.prompt_length}, batch {self.batch}"


@dataclass(frozen=True, slots=True)
class CellFigures:
    """Of one peer and one cell, one value for each round."""

    tokens_per_second: list[float] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)  # seconds, of the median sequence
    every_first_token: list[float] = field(default_factory=list)  # seconds until the last sequence has one

    def add(self, runs: Sequence[Run]) -> None:
        """What a peer did in one round."""
        self.tokens_per_second.append(speed(runs))
        self.first_token.append(median(first for run in runs for first in run.first_token_seconds))
        self.every_first_token.append(median(max(run.first_token_seconds) for run in runs))


@dataclass(slots=True)
class PeerResult:
    """What a run measured of one peer."""

    peer: Peer
    versions: dict[str, str]
    settings: str
    figures: dict[Cell, CellFigures] = field(default_factory=lambda: defaultdict(CellFigures))
    # For each first token: whether it is the one that the first peer in the list chose.
    same_first_token: list[bool] = field(default_factory=list)
    # Shares of all cores that other processes took, one for each counted run.
    others: list[float] = field(default_factory=list)

    @property
    def agreement(self) -> float:
        return sum(self.same_first_token) / len(self.same_first_token)


def measure(peers: Sequence[Peer], plan: Sweep, checkpoint: Path) -> list[PeerResult]:
    """Raises WorkerError where a peer fails or generates another number of tokens than ordered."""
    prompts = PromptSource(checkpoint / TOKENIZER_FILE)
    with opened(peers, plan, checkpoint) as workers:
        measured = [PeerResult(worker.peer, worker.versions, worker.settings) for worker in workers]
        for number in range(plan.rounds + 1):
            for cell in plan.cells:
                runs, shares = undisturbed(workers, number, cell, prompts, plan.new_tokens)
                for index, found in enumerate(measured):
                    if number:
                        found.figures[cell].add(runs[index])
                        found.others.append(shares[index])
                    found.same_first_token += [
                        mine[0] == first[0]
                        for mine, first in zip(runs[index][0].tokens, runs[0][0].tokens, strict=True)
                    ]
                _report(number, plan.rounds, cell, peers, runs)
    return measured


@contextmanager
def opened(peers: Sequence[Peer], plan: Sweep, checkpoint: Path) -> Iterator[list[Worker]]:
    """All workers, loaded one after the other."""
    most_tokens = max(plan.prompt_lengths) + plan.new_tokens
    with ExitStack() as stack:
        workers = []
        for peer in peers:
            begin = time.monotonic()
            worker = stack.enter_context(Worker(peer, plan.threads))
            worker.load(order_for(peer, checkpoint, plan.threads, max(plan.batches), most_tokens))
            workers.append(worker)
            print(f"{peer.label}: loaded in {time.monotonic() - begin:.0f} s; {worker.settings}", flush=True)
        yield workers


def undisturbed(
    workers: Sequence[Worker], number: int, cell: Cell, prompts: PromptSource, new_tokens: int
) -> tuple[dict[int, list[Run]], list[float]]:
    """Every worker's runs, and the share of the cores that other processes took meanwhile.

    Where that share was high for one of them, all run again with new prompts. The try with the least other
    load counts, whatever the speeds were in it.
    """
    tries = []
    for _ in range(TRIES):
        batches = [prompts.take(cell.batch, cell.prompt_length) for _ in range(MOST_RUNS)]
        runs = dict(_in_turn(workers, number, batches, new_tokens))
        shares = [max(worker.others.shares[-len(runs[index]) :]) for index, worker in enumerate(workers)]
        tries.append((runs, shares))
        if not number or max(tries[-1][1]) <= DISTURBED:
            break
    return min(tries, key=lambda found: max(found[1]))


def _in_turn(
    workers: Sequence[Worker], number: int, batches: list[list[list[int]]], new_tokens: int
) -> Iterator[tuple[int, list[Run]]]:
    """Every worker's runs with its index; the number of the round decides which one begins."""
    for place in range(len(workers)):
        index = (place + number) % len(workers)
        runs: list[Run] = []
        for batch in batches:
            runs.append(workers[index].run(batch, new_tokens))
            if sum(run.seconds for run in runs) >= LEAST_SECONDS:
                break
        yield index, runs


def speed(runs: Sequence[Run]) -> float:
    """Tokens per second."""
    return sum(run.num_tokens for run in runs) / sum(run.seconds for run in runs)


def _report(number: int, rounds: int, cell: Cell, peers: Sequence[Peer], runs: dict[int, list[Run]]) -> None:
    head = f"round {number} of {rounds}" if number else "warm-up"
    speeds = (f"{peer.name} {speed(runs[index]):.0f}" for index, peer in enumerate(peers))
    print(f"{head}, {cell}: {', '.join(speeds)} tokens/s", flush=True)
