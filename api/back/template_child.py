"""Renders chat templates: a process of its own, because a template is a program of a stranger.

It reads a JSON object a line, `{"template", "values"}`, and answers with `{"text"}` or `{"error"}`. Jinja's
sandbox keeps a template from the interpreter. It does not bound time and memory: a timer of the kernel ends
this process, and so does its limit of memory. It imports nothing of this project.

The environment is that of transformers (`_compile_jinja_template` in utils/chat_template_utils.py).
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, Undefined
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 1.0  # for one text, its template compiled
MEMORY_BYTES = 256 * 1024**2
MAX_TEXT = 1_000_000  # characters
MAX_ERROR = 300
TEMPLATES = 16  # compiled ones that are kept


def main() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        answer = json.dumps(_answer(asked["template"], asked["values"]))
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(answer, flush=True)


def _answer(source: str, values: dict[str, Any]) -> dict[str, str]:
    try:
        text = _compiled(source).render(**values)
    except MemoryError:
        return {"error": f"it needs more than {MEMORY_BYTES} bytes of memory"}
    except Exception as error:  # a template may raise anything: its author reads what
        return {"error": (str(error) or type(error).__name__)[:MAX_ERROR]}
    if len(text) > MAX_TEXT:
        return {"error": f"its text has {len(text)} characters, but at most {MAX_TEXT} are taken"}
    return {"text": text}


@lru_cache(maxsize=TEMPLATES)
def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], undefined=Undefined
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def _to_json(value: Any, indent: int | None = None) -> str:
    """As JSON, without the escapes of HTML that Jinja's own filter makes."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


if __name__ == "__main__":
    main()
