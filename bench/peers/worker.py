"""The process of a peer: it is started, loaded, and stopped (SIGSTOP) while another one computes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.peers.catalogue import HOME, ROOT, Peer
from bench.peers.machine import OtherLoad
from bench.peers.protocol import Order, Prompts, Run
from perf.errors import PerfError

LOG_TAIL = 2000  # characters of a worker's log in an error


class WorkerError(PerfError):
    """The worker ended, or its answer is not what was ordered."""


class Worker:
    """A context manager: at its end the process and its children are gone."""

    def __init__(self, peer: Peer, threads: int) -> None:
        self.peer = peer
        self.versions: dict[str, str] = {}
        self.settings = ""
        self.log = HOME / f"{peer.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # In a process group of its own it is stopped and ended with all that it starts. The kernel ends a
        # stopped group whose parent has died.
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*interpreter(peer), "-m", peer.module],
                cwd=import_root(peer),
                env=variables(peer, threads),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                preexec_fn=os.setpgrp,
            )
        self.others = OtherLoad(self._process.pid)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def load(self, order: Order) -> None:
        """Convert what is not converted yet, open the model, and stop."""
        answer = self._ask(asdict(order))
        self.versions, self.settings = answer["versions"], answer["settings"]
        self._signal(signal.SIGSTOP)

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        """One measurement; raises WorkerError where the number of tokens is not the wanted one."""
        with self._awake(), self.others.measured():
            run = Run(**self._ask({"prompts": prompts, "new_tokens": new_tokens}))
        lengths = {len(tokens) for tokens in run.tokens}
        if len(run.tokens) != len(prompts) or lengths != {new_tokens}:
            raise WorkerError(
                f"{self.peer.name}: {sorted(lengths)} tokens a sequence instead of {new_tokens}"
            )
        return run

    @contextmanager
    def _awake(self) -> Iterator[None]:
        self._signal(signal.SIGCONT)
        yield
        self._signal(signal.SIGSTOP)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        sender, receiver = self._process.stdin, self._process.stdout
        assert sender is not None
        assert receiver is not None
        try:
            sender.write(json.dumps(question).encode() + b"\n")
            sender.flush()
        except BrokenPipeError:
            raise self._ended() from None
        line = receiver.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ended(self) -> WorkerError:
        code = self._process.wait()
        tail = self.log.read_text("utf-8", "replace")[-LOG_TAIL:]
        return WorkerError(
            f"{self.peer.name}: the worker ended with {code}; its log {self.log} ends:\n{tail}"
        )

    def _signal(self, number: signal.Signals) -> None:
        """To the whole group, if it still exists."""
        if self._process.poll() is None or number is signal.SIGKILL:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return


def interpreter(peer: Peer) -> list[str]:
    if peer.environment is None:
        return [sys.executable]
    return [str(peer.environment.folder / "bin" / "python")]


def import_root(peer: Peer) -> Path:
    """Where `python -m` finds bench. A peer sees no other folder of ours, because one of them could have the
    name of a package that the peer imports."""
    if peer.environment is None:
        return peer.root
    root = HOME / "import"
    root.mkdir(parents=True, exist_ok=True)
    link = root / "bench"
    link.unlink(missing_ok=True)
    link.symlink_to(ROOT / "bench", target_is_directory=True)
    return root


def variables(peer: Peer, threads: int) -> dict[str, str]:
    """The environment of the process: the number of threads for every library, and no download from a hub."""
    found = dict(os.environ)
    # Set on some machines against old OpenBLAS builds, where they slow the others down.
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        found.pop(name, None)
    found |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    found["PYTHONUNBUFFERED"] = "1"  # the log has every line although the process is killed
    if peer.environment is None:
        found["PYTHONPATH"] = str(peer.root)  # of the exporter, too
    else:
        venv = str(peer.environment.folder)
        found |= peer.environment.variables
        found["PATH"] = f"{venv}/bin{os.pathsep}{found.get('PATH', '')}"
    return found


def order_for(peer: Peer, checkpoint: Path, threads: int, most_sequences: int, most_tokens: int) -> Order:
    folder = _converted(peer)
    folder.mkdir(parents=True, exist_ok=True)
    return Order(str(checkpoint), str(folder), peer.precision, threads, most_sequences, most_tokens)


def artifact_of(peer: Peer) -> Path:
    """What a worker of ours exported."""
    return _converted(peer) / peer.precision


def _converted(peer: Peer) -> Path:
    return HOME / (peer.environment.name if peer.environment else peer.name)
