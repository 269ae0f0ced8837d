"""The lines of a server's log file in the log of the façade."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest

from api.back.cluster.server_log import MAX_LINE, ServerLog, record_of
from runtime.log_format import JsonFormatter

TRITON = 'W1129 10:27:11.968152 13408 pinned_memory_manager.cc:273] "Unable to allocate"'
OWN = {
    "time": "2026-11-29T10:00:00.000Z",
    "level": "error",
    "logger": "runtime.engine",
    "message": "it failed",
}


def line_of(text: str) -> dict[str, object]:
    parsed: dict[str, object] = json.loads(JsonFormatter().format(record_of(text, "triton-0")))
    return parsed


def test_a_line_of_triton() -> None:
    line = line_of(TRITON)
    assert (line["level"], line["message"], line["server"]) == ("warning", "Unable to allocate", "triton-0")
    assert line["place"] == "pinned_memory_manager.cc:273"


def test_a_line_of_a_model_stays_as_it_is() -> None:
    assert line_of(json.dumps({**OWN, "request_id": "abc"})) == {
        **OWN,
        "request_id": "abc",
        "server": "triton-0",
    }


@pytest.mark.parametrize(
    "text", ["{", "[" * 5000, '{"level": 3}', json.dumps({**OWN, "level": "loud"}), "a\x1b[2J", "x" * 20_000]
)
def test_any_other_line_is_a_message(text: str) -> None:
    line = line_of(text)
    assert (line["logger"], line["message"]) == ("lmaas.server", text[:MAX_LINE])
    assert "\x1b" not in JsonFormatter().format(record_of(text, "triton-0"))


def test_all_lines_are_passed_on_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "triton.log"
    path.write_text("of an earlier run\n")
    caplog.set_level(logging.INFO, "lmaas.server")

    async def follow() -> None:
        log = ServerLog(path, "triton-0", path.stat().st_size)
        with path.open("a") as file:
            file.write("one\ntw")
            file.flush()
            while not caplog.messages:  # noqa: ASYNC110 - the log is a file
                await asyncio.sleep(0.001)
            file.write("o\n\nthree\n")
        await log.end()

    asyncio.run(asyncio.wait_for(follow(), 20))
    assert caplog.messages == ["one", "two", "three"]
