"""The stack that runs on this machine: its processes, deployments, and the folders that it serves from."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from client.http import api_key
from perf.deployed import Deployed, check_alone, find_deployed
from perf.errors import LoadError, PlanError
from perf.http.ask import Api, Ask
from perf.http.figures import Round
from perf.http.load import Run
from perf.http.wire import Origin
from runtime.config import EngineConfig
from runtime.contract import Kind

REPOSITORY = "--model-repository="  # an option of Triton's


@dataclass(frozen=True, slots=True)
class Stack:
    """A façade that listens on this machine, with all that it started."""

    url: str
    facade: psutil.Process

    @classmethod
    def find(cls, url: str, pid: int | None) -> Stack:
        """By the façade's `pid`, else by the process that listens on the port of `url`. Raises PlanError."""
        try:
            port = Origin.parse(url).port
            return cls(url, psutil.Process(_listener(port) if pid is None else pid))
        except ValueError as error:
            raise PlanError(f"--url: {error}") from error
        except psutil.NoSuchProcess as error:
            raise PlanError(f"--pid: no process has the number {pid}") from error

    @property
    def origin(self) -> Origin:
        return replace(Origin.parse(self.url), key=api_key())

    def processes(self) -> list[psutil.Process]:
        """The façade, and every process below it."""
        return [self.facade, *self.facade.children(recursive=True)]

    def processor_times(self) -> dict[psutil.Process, float]:
        """Seconds of user and system time that every process of the stack has had since it began."""
        found = {}
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # it has just ended
                times = process.cpu_times()
                found[process] = times.user + times.system
        return found

    def processor_seconds(self, before: Mapping[psutil.Process, float]) -> dict[str, float]:
        """What they have had since `before`, by what they are for."""
        used: dict[str, float] = defaultdict(float)
        for process, seconds in self.processor_times().items():
            with suppress(psutil.NoSuchProcess):
                used[process_name(process.cmdline())] += seconds - before.get(process, 0.0)
        return dict(used)

    def deployed(self, kind: Kind, model: str | None) -> Deployed:
        """The one deployment of `model`, or the only one of the kind. Raises PlanError."""
        every = find_deployed(self.url)
        fitting = [each for each in every if each.kind is kind and model in (None, each.model, each.id)]
        if not fitting:
            raise PlanError(f"--model: no ready deployment of kind {kind.value} is {model or 'there'}")
        if len({each.model for each in fitting}) > 1:
            names = ", ".join(each.model for each in fitting)
            raise PlanError(f"--model: say which of {names}")
        check_alone(every, fitting[0])
        return fitting[0]

    def slots(self, deployed: Deployed) -> int:
        """How many sequences its engine runs at once."""
        return EngineConfig.load(self.folder(deployed)).num_slots

    def folder(self, deployed: Deployed) -> Path:
        """Where Triton serves it from: an artifact of one variant, with its engine.json. Raises PlanError."""
        for process in self.processes():
            for argument in process.cmdline():
                if argument.startswith(REPOSITORY):
                    root: Path = Path(process.cwd()) / argument.removeprefix(REPOSITORY)
                    return root / deployed.model / str(deployed.version)
        raise PlanError(f"no Triton runs below process {self.facade.pid}; --pid names the façade's")


def process_name(command: list[str]) -> str:
    """What a process of the stack is for."""
    program = Path(command[0]).name if command else ""
    if program == "triton_python_backend_stub":
        return f"model {Path(command[1]).parts[-3]}"  # REPOSITORY/MODEL/VERSION/model.py
    if program == "tritonserver":
        return "Triton"
    return "guard" if any(each.startswith(REPOSITORY) for each in command) else "façade"


def _listener(port: int) -> int:
    for connection in psutil.net_connections("tcp"):
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        if listens and connection.pid is not None:
            return int(connection.pid)
    raise PlanError(f"--url: nothing on this machine listens on port {port}, or --pid must name it")


def fresh_seed(what: str) -> str:
    """For prompts that no earlier run had: a server does not compute again what is in its cache."""
    return f"{what}/{time.time_ns()}"


def answered(run: Run, ask: Ask) -> Round:
    """A load with everything read. Raises LoadError where a request failed."""
    return without_errors(Round.of(run, ask, Api.LMAAS))


def without_errors(done: Round) -> Round:
    """The same. Raises LoadError where a request failed."""
    errors = [outcome.error for outcome in done.every if outcome.error is not None]
    if errors:
        raise LoadError(
            f"{len(errors)} of {len(done.every)} requests failed: {', '.join(sorted(set(errors)))}"
        )
    return done
