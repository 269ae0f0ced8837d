"""Chat templates: from the messages of a conversation to the prompt that a model was trained with."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from api.back import template_child
from api.errors import ServerFault

PATIENCE = 10.0  # seconds beyond the limit of one text: the child may have to start, and the machine is busy
MAX_LINE = 16 * 1024**2  # bytes: a character of a text may take six

logger = logging.getLogger(__name__)


class TemplateFailed(Exception):
    """`str(error)` says why a template gives no text."""


class Templates:
    """One child process renders a text at a time. It starts with the first one, and again where it ended."""

    def __init__(self) -> None:
        self._child: Process | None = None
        self._turn = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Templates]:
        templates = cls()
        try:
            yield templates
        finally:
            await templates.close()

    async def render(self, template: str, values: Mapping[str, Any]) -> str:
        """Raises TemplateFailed, which names neither the template nor the model; ServerFault."""
        line = json.dumps({"template": template, "values": dict(values)}).encode() + b"\n"
        async with self._turn:
            answer = await self._ask(line)
        if "error" in answer:
            raise TemplateFailed(answer["error"])
        return answer["text"]

    async def _ask(self, line: bytes) -> dict[str, str]:
        child = self._child
        if child is None or child.returncode is not None:
            child = self._child = await self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(line)
            found = await asyncio.wait_for(child.stdout.readline(), template_child.SECONDS + PATIENCE)
        except (BrokenPipeError, ConnectionResetError):
            found = b""
        except BaseException:  # its answer would go to the next caller
            await self.close()
            raise
        if found:
            answer: dict[str, str] = json.loads(found)
            return answer
        status = await child.wait()
        if status == 0:
            raise ServerFault("the process that renders chat templates ended")
        logger.warning("a chat template ended its process with status %d", status)
        limits = f"{template_child.SECONDS:g} s or {template_child.MEMORY_BYTES} bytes of memory"
        raise TemplateFailed(f"it takes more than {limits}")

    @staticmethod
    async def _start() -> Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", template_child.__file__),
            stdin=PIPE,
            stdout=PIPE,
            limit=MAX_LINE,
            env={},
            start_new_session=True,
        )

    async def close(self) -> None:
        """End the child; the next text starts another one."""
        child, self._child = self._child, None
        if child is not None:
            with suppress(ProcessLookupError):
                child.kill()
            await asyncio.shield(child.wait())
