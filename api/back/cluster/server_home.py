"""What belongs to one server of this machine alone: its name, its files, its ports."""

from __future__ import annotations

import hashlib
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from api.back.settings import BackSettings

HOST = "127.0.0.1"
SHARED_MEMORY = Path("/dev/shm")
PORT_STEP = 10  # each server's fixed ports lie this much above those of the server before


@dataclass(frozen=True, slots=True)
class ServerHome:
    settings: BackSettings
    number: int = 0

    @property
    def name(self) -> str:
        return f"triton-{self.number}"

    @property
    def repository(self) -> Path:
        """The model repository that this server reads."""
        return self.settings.triton / self.name / "repository"

    @property
    def log(self) -> Path:
        return self.settings.logs / f"{self.name}.log"

    @property
    def shared_memory_prefix(self) -> str:
        """Distinct for each server; the same in each run, so that a start finds what an earlier one left."""
        return f"{shared_memory_prefix(self.settings)}{self.number}-"

    def relative(self, path: Path) -> str:
        """A path below Triton's working directory, in the form that Triton gets it."""
        return str(path.relative_to(self.settings.triton))


@dataclass(frozen=True, slots=True)
class Ports:
    http: int | None  # None: no HTTP
    grpc: int
    metrics: int

    @classmethod
    def choose(cls, home: ServerHome) -> Ports:
        """The ports of the settings, for this server; free ones in place of 0."""
        settings, above = home.settings, PORT_STEP * home.number
        with ExitStack() as held:  # all at once, so that none is chosen twice
            free = []
            for _ in range(3):
                trial = held.enter_context(socket.socket())
                trial.bind((HOST, 0))
                free.append(trial.getsockname()[1])
        http, grpc, metrics = (
            settings.triton_http_port,
            settings.triton_grpc_port,
            settings.triton_metrics_port,
        )
        return cls(
            None if http is None else http + above if http else free[0],
            grpc + above if grpc else free[1],
            metrics + above if metrics else free[2],
        )


def shared_memory_prefix(settings: BackSettings) -> str:
    """Of all servers of a home."""
    return f"lmaas-{hashlib.sha256(str(settings.home.absolute()).encode()).hexdigest()[:12]}-"
