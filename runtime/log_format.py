"""The form of the log lines of all processes: text, or one JSON object a line. Standard library only."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

# The settings of the façade, which hands them on to the processes of the models.
FORMAT_VARIABLE = "LMAAS_LOG_FORMAT"
LEVEL_VARIABLE = "LMAAS_LOG_LEVEL"


class JsonFormatter(logging.Formatter):
    """`fields` of a record, a dictionary, become members of the object, as do request, task and model."""

    converter = staticmethod(time.gmtime)
    # Attributes of a record, where it has them.
    context = ("facade", "request_id", "task_id", "model", "trace_id")

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: found for name in self.context if (found := getattr(record, name, None))}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(
            line, default=str
        )  # in ASCII, so that no character can end a line or steer a terminal


def printable(text: str) -> str:
    """What a caller sent may hold line ends and codes that steer a terminal: these are written as escapes."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
