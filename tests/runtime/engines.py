"""Engines over tiny random models, and a sink that keeps what it was sent."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from runtime.contract import ENGINE_FILE, Fault, Operation
from runtime.engine import Engine
from runtime.messages import Answer, Generated
from runtime.request import parse_request

TIMEOUT_SECONDS = 30.0
_numbers = itertools.count()


class Collector:
    """Keeps the answers of one request, and that it had exactly one end."""

    def __init__(self, on_answer: Callable[[Answer], None] = lambda answer: None) -> None:
        self.answers: list[Answer] = []
        self.fault: Fault | None = None
        self.ends = 0
        self._over = threading.Event()
        self._on_answer = on_answer

    def send(self, answer: Answer, *, final: bool) -> None:
        assert self.ends == 0, "an answer after the end"
        self.answers.append(answer)
        self._on_answer(answer)
        if final:
            self._end()

    def fail(self, fault: Fault) -> None:
        self.fault = fault
        self._end()

    def _end(self) -> None:
        self.ends += 1
        self._over.set()

    def wait(self) -> Collector:
        assert self._over.wait(TIMEOUT_SECONDS), "no end in time"
        return self

    @property
    def details(self) -> dict[str, Any]:
        """Of a request that is answered once."""
        assert self.fault is None, self.fault
        (answer,) = self.answers
        return answer.to_json()

    @property
    def generated(self) -> Generated:
        assert self.fault is None, self.fault
        answer = self.answers[-1]
        assert isinstance(answer, Generated)
        return answer

    def text(self, index: int = 0) -> str:
        """Of one choice, all its pieces."""
        pieces = [answer.choices for answer in self.answers if isinstance(answer, Generated)]
        return "".join(choice.text for choices in pieces for choice in choices if choice.index == index)


def submit(
    engine: Engine,
    text: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    operation: Operation = Operation.GENERATE,
    stream: bool = False,
    request_id: str | None = None,
    sink: Collector | None = None,
    token_ids: Iterable[int] | None = None,
) -> Collector:
    sink = sink or Collector()
    request_id = request_id or f"test-{next(_numbers)}"
    ids = None if token_ids is None else tuple(token_ids)
    request = parse_request(request_id, text, operation, parameters or {}, stream=stream, token_ids=ids)
    engine.submit(request, sink)
    return sink


def ask(engine: Engine, text: str, operation: Operation = Operation.GENERATE, **parameters: Any) -> Any:
    """The details of a request that is answered once."""
    return submit(engine, text, parameters, operation=operation).wait().details


def token_ids(engine: Engine, text: str, **parameters: Any) -> list[int]:
    ids: list[int] = ask(engine, text, **parameters)["choices"][0]["token_ids"]
    return ids


def version_folder(artifact: Path, folder: Path, variant: str = "fp32", **settings: int) -> Path:
    """An artifact as Triton's repository holds it."""
    shutil.copytree(artifact, folder)
    (folder / ENGINE_FILE).write_text(json.dumps({"variant": variant, "threads": 1, **settings}))
    return folder
