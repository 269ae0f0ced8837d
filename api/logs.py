"""Log lines of the façade process, as text or JSON, each with the request, task and model it belongs to."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any

from api.config import Settings
from api.log_context import LogContext
from runtime.log_format import JsonFormatter, printable

log = logging.getLogger("lmaas")


class _ContextFilter(logging.Filter):
    def __init__(self, facade: str) -> None:
        super().__init__()
        self._facade = facade

    def filter(self, record: logging.LogRecord) -> bool:
        context = LogContext.current()
        record.facade = self._facade
        record.request_id, record.task_id = context.request_id, context.task_id
        record.model, record.trace_id = context.model, context.trace_id
        return True


class _TextFormatter(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def __init__(self, facade: str) -> None:
        name = f"{facade} %(name)s" if facade else "%(name)s"
        super().__init__(
            f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {name} %(message)s [%(request_id)s]",
            "%Y-%m-%dT%H:%M:%S",
        )

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.request_id = getattr(record, "request_id", None) or "-"
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Indented, so that no line of it can pass for one of the log."""
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


def configure_logging(settings: Settings, facade: str = "") -> None:
    """Send the lines of this process to standard error, in the form and from the level of the settings.

    `facade` is the name of this one where several write to the same place.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_ContextFilter(facade))
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else _TextFormatter(facade))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("api", "lmaas", "runtime"):  # the last one are the engine's lines
        logging.getLogger(name).setLevel(settings.log_level.upper())
    if settings.log_format == "json":
        _log_what_python_prints()


def _log_what_python_prints() -> None:
    """Warnings and errors that nothing catches go to standard error as text otherwise."""
    logging.captureWarnings(True)
    sys.excepthook = lambda *error: log.critical("the process ends", exc_info=error)
    threading.excepthook = lambda found: log.critical(
        "thread %s ended",
        found.thread and found.thread.name,
        exc_info=(found.exc_type, found.exc_value or found.exc_type(), found.exc_traceback),
    )
