"""A worker's process: what it answers, when it is stopped, how it fails, and that nothing of it stays."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.checkpoints import TOKENIZER_OF
from bench.peers import rounds
from bench.peers.catalogue import PEERS, Peer
from bench.peers.material import PromptSource
from bench.peers.protocol import Order
from bench.peers.rounds import Cell, undisturbed
from bench.peers.worker import Worker, WorkerError, import_root, variables
from runtime.contract import TOKENIZER_FILE

Opened = Callable[[str], Worker]


def order(precision: str, folder: Path) -> Order:
    return Order(str(folder), str(folder), precision, 1, 4, 64)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    monkeypatch.setattr("bench.peers.worker.HOME", tmp_path)
    workers = []

    def open_worker(precision: str) -> Worker:
        peer = Peer("fake", "fake", "tests.bench.peers.fake_peer", precision, 8, 8)
        workers.append(Worker(peer, 1))
        return workers[-1]

    yield open_worker
    for worker in workers:
        worker.__exit__(None, None, None)


def state(pid: int) -> str:
    """One letter, see proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_answers_although_libraries_print(opened: Opened, tmp_path: Path) -> None:
    worker = opened("whole")
    worker.load(order("whole", tmp_path))
    assert (worker.versions, worker.settings) == ({"fake": "1"}, "1 threads")
    run = worker.run([[5], [7, 9]], 3)
    assert run.tokens == [[6, 7, 8], [10, 11, 12]]
    assert run.num_tokens == 6
    assert 0 < max(run.first_token_seconds) <= run.seconds
    assert "a library talks" in worker.log.read_text()
    assert len(worker.others.shares) == 1


def test_is_stopped_between_measurements(opened: Opened, tmp_path: Path) -> None:
    worker = opened("whole")
    worker.load(order("whole", tmp_path))
    assert os.waitpid(worker.pid, os.WUNTRACED)[0] == worker.pid
    assert state(worker.pid) == "T"
    worker.run([[1]], 1)
    assert os.waitpid(worker.pid, os.WUNTRACED)[0] == worker.pid
    assert state(worker.pid) == "T"


def test_a_stopped_worker_can_be_ended(opened: Opened, tmp_path: Path) -> None:
    with opened("whole") as worker:
        worker.load(order("whole", tmp_path))
    assert not Path(f"/proc/{worker.pid}").exists()


def test_too_few_tokens_are_an_error(opened: Opened, tmp_path: Path) -> None:
    worker = opened("lossy")
    worker.load(order("lossy", tmp_path))
    with pytest.raises(WorkerError, match=r"fake: \[2\] tokens a sequence instead of 3"):
        worker.run([[1], [2]], 3)


def test_a_failed_worker_tells_why(opened: Opened, tmp_path: Path) -> None:
    worker = opened("broken")
    with pytest.raises(WorkerError, match="no such weights"):
        worker.load(order("broken", tmp_path))


def test_peers_see_nothing_of_ours_but_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.peers.worker.HOME", tmp_path)
    root = import_root(PEERS[0])
    assert [path.name for path in root.iterdir()] == ["bench"]
    assert (root / "bench" / "peers" / "protocol.py").is_file()
    assert import_root(PEERS[0]) == root


def test_threads_are_set_and_nothing_comes_from_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    found = variables(Peer("fake", "fake", "fake", "int8", 8, 8), 2)
    assert (found["OMP_NUM_THREADS"], found["HF_HUB_OFFLINE"]) == ("2", "1")
    assert "OPENBLAS_CORETYPE" not in found


@pytest.mark.parametrize(("shares", "tries"), [([0.0], 1), ([0.5, 0.02], 2), ([0.5, 0.4, 0.3], 3)])
def test_disturbed_work_is_done_again(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: list[float], tries: int
) -> None:
    worker = opened("whole")
    worker.load(order("whole", tmp_path))
    left = iter(shares)

    @contextmanager
    def measured() -> Iterator[None]:
        yield
        worker.others.shares.append(next(left))

    monkeypatch.setattr(worker.others, "measured", measured)
    monkeypatch.setattr(rounds, "LEAST_SECONDS", 0.0)
    prompts = PromptSource(TOKENIZER_OF / TOKENIZER_FILE)
    runs, found = undisturbed([worker], 1, Cell(8, 2), prompts, 4)
    assert found == [min(shares)]
    assert [run.num_tokens for run in runs[0]] == [8]
    assert worker.others.shares == shares[:tries]


def test_what_is_done_at_once_is_done_several_times(opened: Opened, tmp_path: Path) -> None:
    worker = opened("whole")
    worker.load(order("whole", tmp_path))
    prompts = PromptSource(TOKENIZER_OF / TOKENIZER_FILE)
    runs, _ = undisturbed([worker], 0, Cell(8, 2), prompts, 4)
    assert len(runs[0]) == rounds.MOST_RUNS
    # The worker counts up from the last token of a prompt: other prompts, other tokens.
    assert len({tuple(run.tokens[0]) for run in runs[0]}) == rounds.MOST_RUNS
