"""The two sides: checkouts, their workers, and their appliances."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from bench.facades import Facade, free_port
from bench.peers.catalogue import Peer, ours
from bench.stack.start import fresh_process
from kernels.library import SWITCH
from perf.errors import PlanError
from runtime.contract import Variant

ROOMS = ("bench", "perf")  # of the laboratory; the second one in older trees
START_SECONDS = 900.0  # with the conversion of the checkpoint
# Every variant is deployed, however far from fp32 it is: speed alone is compared.
NO_BUDGET = {"budget_perplexity": "1", "budget_top1": "0", "budget_labels": "0"}


@dataclass(frozen=True, slots=True)
class Side:
    """A checkout; `name` is "old" or "new"."""

    name: str
    root: Path
    room: str  # of its laboratory

    @classmethod
    def of(cls, name: str, folder: Path) -> Side:
        """Raises PlanError where the folder is no checkout of this project."""
        root = folder.resolve()
        for room in ROOMS:
            if (root / "lmaas.py").is_file() and (root / room / "peers" / "ours.py").is_file():
                return cls(name, root, room)
        wanted = " or ".join(f"{room}/peers/ours.py" for room in ROOMS)
        raise PlanError(
            f"{name.upper()}: {folder} is no checkout of this project, which has lmaas.py and {wanted}"
        )

    @property
    def operators(self) -> list[str]:
        """The compiled operators that it has; they are no part of a checkout."""
        return sorted(path.name for path in (self.root / "kernels").glob("*.so"))

    @property
    def commit(self) -> str:
        """As git describes it; empty where git does not."""
        command = ["git", "-C", str(self.root), "describe", "--always", "--dirty", "--exclude=*"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    def peer(self, variant: Variant) -> Peer:
        """Its engine in a process, as one of the peers."""
        return replace(
            ours(variant), name=self.name, label=self.name, module=f"{self.room}.peers.ours", root=self.root
        )

    def start_up(self, artifact: Path) -> float:
        """Seconds from the start of a process until its engine has the first token. Raises LoadError."""
        return fresh_process(artifact, f"{self.room}.stack.first_token", self.root)[1]


def check_alike(old: Side, new: Side) -> None:
    """Raises PlanError where one side has no operators and would use ONNX Runtime's."""
    for side, other in ((old, new), (new, old)):
        if other.operators and not side.operators:
            raise PlanError(
                f"{side.name.upper()}: kernels/ has no compiled operators, but {other.name.upper()} has"
                f" {', '.join(other.operators)}; build them there with the packages of [build-system]:"
                " python setup.py build_ext --inplace"
            )


@contextmanager
def appliances(
    sides: Sequence[Side], folder: Path, checkpoint: Path, variant: Variant
) -> Iterator[list[Facade]]:
    """One of each side, all ready and serving the checkpoint. State and logs are below the existing `folder`.

    Raises LoadError where one does not become ready.
    """
    models = folder / "models"
    models.mkdir()
    (models / "model").symlink_to(checkpoint.resolve(), target_is_directory=True)
    settings = NO_BUDGET | {"models": str(models), "variants": variant.value, "precision": variant.value}
    if SWITCH in os.environ:
        settings["kernels"] = os.environ[SWITCH]
    with ExitStack() as stack:
        started = []
        for side in sides:
            facade = Facade(folder / side.name, free_port(), settings, side.root)
            stack.callback(facade.stop)
            facade.start()
            started.append(facade)
        asyncio.run(_all_ready(started))
        yield started


async def _all_ready(facades: Sequence[Facade]) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        for facade in facades:
            await facade.wait_until_ready(client, START_SECONDS)
