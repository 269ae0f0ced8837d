"""A step that does not return: all requests fail, once, and no other request is accepted."""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.config import EngineConfig
from runtime.contract import GRAPH_FILE, TOKENIZER_FILE, FaultCode, FinishReason, Variant
from runtime.engine import Engine, Watchdog
from runtime.errors import RequestFault
from runtime.manifest import Manifest
from runtime.scheduler import Batch
from runtime.session import LmSession
from runtime.text import Tokenizer
from tests.runtime.engines import TIMEOUT_SECONDS, Collector, ask, submit

LONG: dict[str, Any] = {"max_tokens": 90, "ignore_eos": True}


class HangingSession(LmSession):
    """After `runs` runs, a run does not return before it is released."""

    def __init__(self, graph: Path) -> None:
        super().__init__(graph, 1)
        self.runs: float = math.inf
        self.hanging = threading.Event()
        self.released = threading.Event()

    def run(self, batch: Batch) -> NDArray[np.float32]:
        self.runs -= 1
        if self.runs < 0:
            self.hanging.set()
            self.released.wait(TIMEOUT_SECONDS)
        return super().run(batch)


class WatchedEngine:
    def __init__(self, artifact: Path) -> None:
        manifest = Manifest.load(artifact)
        self.session = HangingSession(artifact / "fp32" / GRAPH_FILE)
        self.stalled = threading.Event()
        tokenizer = Tokenizer(artifact / TOKENIZER_FILE, manifest.architecture.eos_token_id)
        config = EngineConfig(Variant.FP32, num_slots=2, step_timeout_seconds=1)
        self.engine = Engine(manifest, config, self.session, tokenizer, self.stalled.set)

    def hang(self) -> list[Collector]:
        """Five requests under way, of which two run and three wait; one is streamed."""
        self.session.runs = 10
        sinks = [submit(self.engine, "the cat", LONG, stream=number == 0) for number in range(5)]
        assert self.session.hanging.wait(TIMEOUT_SECONDS)
        return sinks

    def close(self) -> None:
        self.session.released.set()
        self.engine.close()
        self.engine._thread.join(TIMEOUT_SECONDS)


@pytest.fixture
def watched(lm_artifact: Path) -> Iterator[WatchedEngine]:
    opened = WatchedEngine(lm_artifact)
    yield opened
    opened.close()


def test_a_step_that_hangs_fails_what_is_under_way_and_refuses_what_comes(
    watched: WatchedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        sinks = watched.hang()
        for sink in sinks:
            fault = sink.wait().fault
            assert fault is not None
            assert fault.code is FaultCode.UNAVAILABLE
            assert "a step of the model has run for more than 1 s" in fault.message
        assert watched.stalled.wait(TIMEOUT_SECONDS)
    assert "5 requests fail" in caplog.text
    assert "released.wait" in caplog.text, "the log says where it hangs"
    assert watched.engine.stats().stalled
    with pytest.raises(RequestFault, match="unavailable: a step of the model"):
        submit(watched.engine, "the dog")
    assert watched.engine.drain(0), "nothing is under way any more"


def test_a_step_that_returns_after_all_ends_nothing_twice(watched: WatchedEngine) -> None:
    sinks = watched.hang()
    assert watched.stalled.wait(TIMEOUT_SECONDS)
    watched.close()
    assert [sink.ends for sink in sinks] == [1] * 5
    assert watched.engine.stats().running == 0
    assert watched.engine.stats().waiting == 0
    assert watched.engine.stats().finished[FinishReason.ERROR] == 5


def test_a_stalled_engine_closes_without_its_step_thread(watched: WatchedEngine) -> None:
    sinks = watched.hang()
    watched.engine.close()  # before the watchdog knows
    assert [sink.ends for sink in sinks] == [1] * 5
    assert watched.stalled.is_set()


def test_a_process_that_was_stopped_for_a_while_is_not_taken_for_one_that_hangs() -> None:
    """Each look finds a step that is late, and each time another one."""
    looks = itertools.count()
    stalled, many_looks, hangs = threading.Event(), threading.Event(), threading.Event()

    def began() -> float:
        number = 0 if hangs.is_set() else next(looks)
        if number > 5:
            many_looks.set()
        return float(-number)  # long ago

    watchdog = Watchdog(0.1, began, stalled.set)
    assert many_looks.wait(TIMEOUT_SECONDS)
    assert not stalled.is_set()
    hangs.set()
    assert stalled.wait(TIMEOUT_SECONDS)
    watchdog.close()


def test_an_engine_at_work_is_left_alone(watched: WatchedEngine) -> None:
    assert ask(watched.engine, "the cat", **LONG)["usage"]["completion_tokens"] == 90
    assert not watched.stalled.wait(1.3)
    assert not watched.engine.stats().stalled
