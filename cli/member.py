"""One of several façades: what it has alone, and what it shares with the others."""

from __future__ import annotations

import os
import socket
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from api.back.cluster.resources import gpu_of
from api.back.cluster.server_home import PORT_STEP
from api.back.home import LEDGER_FILE
from api.config import PREFIX, Settings
from api.shared_listener import Counts, SharedListener
from runtime.contract import Device

SHARED = ("blobs", "uploads")  # folders of the state that all façades use


@dataclass(frozen=True, slots=True)
class Member:
    """One of several façades, and the descriptors that it inherits."""

    number: int  # from 1
    public: int
    own: int
    counts: int

    @classmethod
    def parse(cls, text: str) -> Member:
        """The form of `argument`."""
        return cls(*map(int, text.split(":")))

    @property
    def argument(self) -> str:
        return ":".join(map(str, astuple(self)))

    @property
    def name(self) -> str:
        return f"facade-{self.number}"

    def own_socket(self) -> socket.socket:
        return socket.socket(fileno=self.own)

    def shared_listener(self) -> SharedListener:
        return SharedListener(socket.socket(fileno=self.public), Counts(self.counts), self.number - 1)


def home_of(shared: Path, number: int) -> Path:
    """Below the folder of all state."""
    return shared / f"facade-{number}"


def environment(settings: Settings, number: int) -> dict[str, str]:
    """Of façade `number`, from 1: the settings as they are, but for what it has alone."""
    above = PORT_STEP * settings.servers * (number - 1)
    ports = ("triton_http_port", "triton_grpc_port", "triton_metrics_port")
    fixed = {name: port + above for name in ports if (port := getattr(settings, name))}
    own: dict[str, Any] = {
        "facades": 1,
        "home": home_of(settings.home, number),
        "host": settings.host,
        "port": settings.port,
        **fixed,
    }
    if number > 1:
        own["models"] = os.devnull  # the first one imports the bundled models for all
    first = settings.servers * (number - 1)
    gpus = ",".join(gpu_of(first + server) for server in range(settings.servers))
    chosen = {"CUDA_VISIBLE_DEVICES": gpus} if settings.device == Device.CUDA.value else {}
    return {**os.environ, **chosen, **{PREFIX + name.upper(): str(value) for name, value in own.items()}}


def prepare_home(shared: Path, number: int) -> None:
    """The folder of façade `number`, with links to what all of them use. Raises OSError."""
    home = home_of(shared, number)
    home.mkdir(exist_ok=True)
    for name in SHARED:
        (shared / name).mkdir(exist_ok=True)
    for name in (*SHARED, LEDGER_FILE):
        link = home / name
        if not link.is_symlink():
            link.symlink_to(Path("..", name))
