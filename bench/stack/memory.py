"""Resident memory of all processes of the stack, as it is found and while every slot is full.

RSS counts a page in every process that has it. PSS divides it among those, so that the sum over the stack is
what the stack takes. Pages that processes outside the stack share (a second stack, this command) count only
in part: measure with nothing else running. To fill the slots, as many prompts are under way at once; with the
default lengths the first of them still generates when the last has been read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import httpx
import psutil

from bench.stack.report import Bound, MaxTokens, Model, Name, Pid, PromptTokens, Report, Target, publish
from bench.stack.running import Stack, answered, fresh_seed, process_name
from cli.command import Url
from client.http import DEFAULT_URL
from perf.deployed import Deployed
from perf.http.ask import Api, Ask, Task, requests
from perf.http.load import ClosedLoop, Extent
from perf.http.prompts import Texts
from perf.http.run import in_event_loop
from perf.report import markdown_table
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
        return cls(list(read(stack)), rows_used(metrics, deployed))

    @property
    def rss(self) -> int:
        return sum(process.rss for process in self.processes)

    @property
    def pss(self) -> int:
        return sum(process.pss for process in self.processes)


def read(stack: Stack) -> Iterator[Process]:
    for process in stack.processes():
        try:
            usage, name = process.memory_full_info(), process_name(process.cmdline())
        except psutil.NoSuchProcess:  # it has just ended
            continue
        yield Process(process.pid, name, usage.rss, usage.pss)


def rows_used(metrics: str, deployed: Deployed) -> int:
    """From the façade's /metrics; 0 where they have no such line."""
    labels = f'{ROWS}{{model="{deployed.model}",version="{deployed.version}"'
    lines = (line for line in metrics.splitlines() if line.startswith(labels))
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


def memory(
    model: Model = None,
    prompt_tokens: PromptTokens = 896,
    max_tokens: MaxTokens = 128,
    url: Url = DEFAULT_URL,
    pid: Pid = None,
    name: Name = "stack-memory",
) -> None:
    stack = Stack.find(url, pid)
    deployed = stack.deployed(Kind.LM, model)
    slots = stack.slots(deployed)
    ask = Ask(Task.GENERATE, max_tokens, ignore_eos=True)
    texts = Texts(0, prompt_tokens, str(stack.folder(deployed)))
    before = Look.at(stack, deployed)
    looks = in_event_loop(_fill(stack, deployed, ask, texts, slots))
    fullest = max(looks, key=lambda look: look.pss)
    after = Look.at(stack, deployed)
    most_rows = max(look.rows for look in looks)
    report = Report(
        f"{deployed.label}, {slots} slots: as many requests at once, {ask.described(texts)}; a look every"
        f" {PAUSE:g} s. At most {most_rows} rows of the cache were in use, of {slots} times"
        f" {prompt_tokens + max_tokens}. MB are 10^6 bytes.",
        [(TARGET, fullest.pss / MEGABYTE)],
        _tables(before, fullest, after),
        {
            "before": asdict(before),
            "fullest": asdict(fullest),
            "after": asdict(after),
            "most_rows": most_rows,
        },
    )
    publish(name, report)


def _tables(before: Look, fullest: Look, after: Look) -> str:
    rows = [
        (name, len(look.processes), _megabytes(look.rss), _megabytes(look.pss))
        for name, look in (("as found", before), ("most, slots full", fullest), ("right after", after))
    ]
    parts = [
        (process.name, process.pid, _megabytes(process.rss), _megabytes(process.pss))
        for process in fullest.processes
    ]
    return (
        markdown_table(("all processes", "number", "RSS, MB", "PSS, MB"), rows)
        + "\nWith full slots, by process:\n\n"
        + markdown_table(("process", "pid", "RSS, MB", "PSS, MB"), parts)
    )


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:.0f}"


async def _fill(stack: Stack, deployed: Deployed, ask: Ask, texts: Texts, slots: int) -> list[Look]:
    """Looks while as many requests as slots are under way. Raises LoadError where one failed."""
    sent = requests(stack.origin, Api.LMAAS, deployed.model, ask, texts, fresh_seed("memory"), slots)
    extent = Extent(0, 0, requests=slots)
    filling = asyncio.create_task(ClosedLoop(stack.origin, sent, extent, TIMEOUT, slots).run())
    looks: list[Look] = []
    while not looks or not filling.done():
        looks.append(await asyncio.to_thread(Look.at, stack, deployed))
        await asyncio.wait([filling], timeout=PAUSE)
    answered(filling.result(), ask)
    return looks
