"""What models cost that nothing asks: processor time while they are loaded, memory until they are unloaded.

The second part needs an appliance that runs with LMAAS_IDLE_UNLOAD_SECONDS: the command then waits, without a
request, until every deployment is idle, and asks each language model once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import typer

from bench.stack.memory import MEGABYTE, Process, read
from bench.stack.report import Bound, Name, Pid, Report, Seconds, Target, publish
from bench.stack.running import Stack
from cli.command import Url
from client.http import DEFAULT_URL, Client
from perf.report import markdown_table

TARGET = Target(
    "processor time of a loaded appliance that nothing asks", Bound.AT_MOST, 5.0, ".1f", " % of a core"
)
PAUSE = 0.5  # seconds between two looks

Wait = Annotated[
    float,
    typer.Option("--wait", help="Seconds until every deployment is idle, at most; 0: do not wait.", min=0),
]


@dataclass(frozen=True, slots=True)
class Idle:
    """After every deployment was unloaded."""

    processes: list[Process]
    first_answers: dict[str, float] = field(default_factory=dict)  # seconds, by model
    next_answers: dict[str, float] = field(default_factory=dict)


def idle(
    seconds: Seconds = 20.0,
    wait: Wait = 0.0,
    url: Url = DEFAULT_URL,
    pid: Pid = None,
    name: Name = "stack-idle",
) -> None:
    stack = Stack.find(url, pid)
    with Client(url) as client:
        before = stack.processor_times()
        time.sleep(seconds)
        used = stack.processor_seconds(before)
        loaded = list(read(stack))
        states = {each["model"]: each["state"] for each in client.deployments()}
        unloaded = _unloaded(stack, client, wait) if wait else None
    report = Report(
        f"{len(states)} deployments, probes as usual, no request for {seconds:g} s. MB are 10^6 bytes.",
        [(TARGET, 100 * sum(used.values()) / seconds)],
        _tables(used, seconds, loaded, unloaded),
        {
            "cpu_seconds": used,
            "states": states,
            "loaded": [asdict(process) for process in loaded],
            "unloaded": None if unloaded is None else asdict(unloaded),
        },
    )
    publish(name, report)


def _unloaded(stack: Stack, client: Client, wait: float) -> Idle | None:
    """None where not every deployment is idle within `wait` seconds."""
    end = time.monotonic() + wait
    while any(each["state"] != "idle" for each in client.deployments()):
        if time.monotonic() > end:
            return None
        time.sleep(PAUSE)
    found = Idle(list(read(stack)))
    models = [model for model in client.models() if model["kind"] == "lm" and model["serving"]]
    for answers in (found.first_answers, found.next_answers):
        for model in models:
            begin = time.monotonic()
            client.generate("Once", model=model["id"], max_tokens=1)
            answers[model["id"]] = time.monotonic() - begin
    return found


def _tables(used: Mapping[str, float], seconds: float, loaded: list[Process], unloaded: Idle | None) -> str:
    rows: list[tuple[Any, ...]] = [
        (name, f"{taken:.2f}", f"{100 * taken / seconds:.1f}") for name, taken in sorted(used.items())
    ]
    tables = markdown_table(("process", "seconds", "% of a core"), rows)
    sizes = [("loaded", len(loaded), _megabytes(loaded))]
    if unloaded is None:
        return tables + "\n" + markdown_table(("", "processes", "PSS, MB"), sizes)
    sizes.append(("idle", len(unloaded.processes), _megabytes(unloaded.processes)))
    answers = [
        (model, f"{seconds:.2f}", f"{unloaded.next_answers[model]:.3f}")
        for model, seconds in unloaded.first_answers.items()
    ]
    first = markdown_table(("model", "first answer after idle, s", "next answer, s"), answers)
    return "\n".join([tables, markdown_table(("", "processes", "PSS, MB"), sizes), first])


def _megabytes(processes: list[Process]) -> str:
    return f"{sum(process.pss for process in processes) / MEGABYTE:.0f}"
