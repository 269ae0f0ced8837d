"""Answers of an engine in this process, for the checks: tokens with their log-probabilities."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

from perf.errors import PerfError
from runtime.answers import Answer, Generated, TokenRecord
from runtime.contract import Fault
from runtime.engine import Engine
from runtime.request import Request
from runtime.sampling import SamplingParameters

_numbers = itertools.count()


class _Sink:
    def __init__(self) -> None:
        self.over = threading.Event()
        self.answer: Generated | None = None
        self.fault: Fault | None = None

    def send(self, answer: Answer, *, final: bool) -> None:
        if isinstance(answer, Generated) and final:
            self.answer = answer
        if final:
            self.over.set()

    def fail(self, fault: Fault) -> None:
        self.fault = fault
        self.over.set()


def ask(engine: Engine, texts: Sequence[str], **parameters: Any) -> list[Generated]:
    """Whole answers to all texts at once. Raises PerfError where one fails."""
    sinks = [_Sink() for _ in texts]
    for text, sink in zip(texts, sinks, strict=True):
        chosen = SamplingParameters(ignore_eos=True, **parameters)
        engine.submit(Request(f"check-{next(_numbers)}", text, parameters=chosen), sink)
    answers = []
    for sink in sinks:
        sink.over.wait()
        if sink.answer is None:
            raise PerfError(f"the engine failed: {sink.fault.encode() if sink.fault else 'no answer'}")
        answers.append(sink.answer)
    return answers


def tokens(answer: Generated) -> list[int]:
    return list(answer.choices[0].token_ids)


def records(answer: Generated) -> list[TokenRecord]:
    """Of an answer that was asked for `logprobs`."""
    return list(answer.choices[0].logprobs or [])
