"""Resident memory of all processes of the stack, as it is found and while every slot is full.

RSS counts a page in every process that has it; PSS shares it among those, so that the sum over the stack is
what it takes. Pages that processes outside the stack have too, as a second stack on the machine or this
command, count only in part: measure with nothing else running. To fill the slots, as many prompts are under
way at once; with the given lengths the first of them still generates when the last has been read.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from perf.deployed import Deployed
from perf.http.ask import Api, Ask, Task, requests
from perf.http.load import ClosedLoop
from perf.http.prompts import Texts
from perf.http.run import in_event_loop
from perf.http.schedule import Extent
from perf.report import markdown_table
from perf.stack.report import Bound, Report, Target
from perf.stack.running import REPOSITORY, Stack, answered, fresh_seed
from runtime.contract import Kind

TARGET = Target("resident memory (PSS) of the stack with full slots", Bound.AT_MOST, 900.0, ".0f", " MB")
MEGABYTE = 1e6  # bytes
ROWS = "lmaas_engine_kv_tokens_used"
TIMEOUT = 300.0  # seconds of one request
PAUSE = 0.5  # seconds between two looks


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    name: str
    rss: int  # bytes, as the next
    pss: int


@dataclass(frozen=True, slots=True)
class Look:
    """All processes at one moment."""

    processes: list[Process]
    rows: int  # of the KV cache that sequences had

    @classmethod
    def at(cls, stack: Stack, deployed: Deployed) -> Look:
        metrics = httpx.get(f"{stack.url}/metrics", timeout=TIMEOUT, trust_env=False).text
        return cls(list(_read(stack)), rows_used(metrics, deployed))

    @property
    def rss(self) -> int:
        return sum(process.rss for process in self.processes)

    @property
    def pss(self) -> int:
        return sum(process.pss for process in self.processes)


def _read(stack: Stack) -> Iterator[Process]:
    for process in stack.processes():
        try:
            memory, name = process.memory_full_info(), process_name(process.cmdline())
        except psutil.NoSuchProcess:  # it has ended meanwhile
            continue
        yield Process(process.pid, name, memory.rss, memory.pss)


def process_name(command: list[str]) -> str:
    """What a process of the stack is for."""
    program = Path(command[0]).name if command else ""
    if program == "triton_python_backend_stub":
        return f"model {Path(command[1]).parts[-3]}"  # REPOSITORY/MODEL/VERSION/model.py
    if program == "tritonserver":
        return "Triton"
    return "guard" if any(each.startswith(REPOSITORY) for each in command) else "façade"


def rows_used(metrics: str, deployed: Deployed) -> int:
    """From the façade's /metrics; 0 where it does not tell."""
    labels = f'{ROWS}{{model="{deployed.model}",version="{deployed.version}"}}'
    lines = (line for line in metrics.splitlines() if line.startswith(labels))
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt-tokens", type=int, default=896)
    parser.add_argument("--max-tokens", type=int, default=128)


def measure(stack: Stack, options: argparse.Namespace) -> Report:
    deployed = stack.deployed(Kind.LM, options.model)
    folder = stack.folder(deployed)
    slots = stack.slots(deployed)
    ask = Ask(Task.GENERATE, options.max_tokens, ignore_eos=True)
    texts = Texts(0, options.prompt_tokens, str(folder))
    before = Look.at(stack, deployed)
    looks = in_event_loop(_fill(stack, deployed, ask, texts, slots))
    fullest = max(looks, key=lambda look: look.pss)
    after = Look.at(stack, deployed)
    rows = [
        (name, len(look.processes), _megabytes(look.rss), _megabytes(look.pss))
        for name, look in (("as found", before), ("most, slots full", fullest), ("right after", after))
    ]
    parts = [
        (process.name, process.pid, _megabytes(process.rss), _megabytes(process.pss))
        for process in fullest.processes
    ]
    most_rows = max(look.rows for look in looks)
    return Report(
        f"{deployed.label}, {slots} slots: as many requests at once, {ask.described(texts)}; a look every"
        f" {PAUSE:g} s. At most {most_rows} rows of the cache were in use, of {slots} times"
        f" {options.prompt_tokens + options.max_tokens}. MB are 10^6 bytes.",
        [(TARGET, fullest.pss / MEGABYTE)],
        markdown_table(("all processes", "number", "RSS, MB", "PSS, MB"), rows)
        + "\nWith full slots, by process:\n\n"
        + markdown_table(("process", "pid", "RSS, MB", "PSS, MB"), parts),
        {
            "before": asdict(before),
            "fullest": asdict(fullest),
            "after": asdict(after),
            "most_rows": most_rows,
        },
    )


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:.0f}"


async def _fill(stack: Stack, deployed: Deployed, ask: Ask, texts: Texts, slots: int) -> list[Look]:
    """Looks while so many requests are under way. Raises LoadError where one failed."""
    sent = requests(stack.origin, Api.LMAAS, deployed.model, ask, texts, fresh_seed("memory"), slots)
    extent = Extent(0, 0, requests=slots)
    filling = asyncio.create_task(ClosedLoop(stack.origin, sent, extent, TIMEOUT, slots).run())
    looks: list[Look] = []
    while not looks or not filling.done():
        looks.append(await asyncio.to_thread(Look.at, stack, deployed))
        await asyncio.wait([filling], timeout=PAUSE)
    answered(filling.result(), ask)
    return looks
