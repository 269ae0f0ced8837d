"""Every core and engine that the tests of the runtime make: their invariants are checked after each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runtime.core import EngineCore
from runtime.engine import Engine


class Invariants:
    def __init__(self) -> None:
        self._cores: list[EngineCore] = []
        self._engines: list[Engine] = []

    @contextmanager
    def recording(self) -> Iterator[Invariants]:
        """Record every core and engine that is made within the context."""
        with pytest.MonkeyPatch.context() as patch:
            for kind, kept in ((EngineCore, self._cores), (Engine, self._engines)):
                patch.setattr(kind, "__init__", _recorded(kind.__init__, kept))
            yield self

    def check(self) -> None:
        """Raise IntegrityError if an invariant is violated; forget engines that have ended."""
        engines, cores = self._engines[:], self._cores[:]
        self._engines[:] = [engine for engine in engines if engine._thread.is_alive()]
        self._cores[:] = [engine._core for engine in self._engines]
        for engine in engines:
            engine.check_integrity()
        owned = [engine._core for engine in engines]
        for core in cores:
            if core not in owned:
                core.scheduler.check_integrity()


def _recorded(make: Any, kept: list[Any]) -> Any:
    def recorded(self: Any, *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **named)
        kept.append(self)

    return recorded
