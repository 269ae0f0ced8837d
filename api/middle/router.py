"""The Request Router: task type -> handler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from api.errors import InvalidInput
from api.middle.handlers.base import Handler


class Router:
    def __init__(self, handlers: Iterable[Handler[Any, Any]]) -> None:
        self._handlers = {handler.task_type: handler for handler in handlers}

    @property
    def types(self) -> list[str]:
        return sorted(self._handlers)

    def handler(self, task_type: str) -> Handler[Any, Any]:
        """Raises InvalidInput (`type`), naming the known types."""
        try:
            return self._handlers[task_type]
        except KeyError:
            raise InvalidInput.of(
                "type", f"no task type {task_type!r}; there are {', '.join(self.types)}"
            ) from None
