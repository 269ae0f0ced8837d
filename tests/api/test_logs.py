from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest

from api.config import Settings
from api.log_context import LogContext
from api.logs import configure_logging


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    named = {name: logging.getLogger(name).level for name in ("api", "lmaas")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in named.items():
        logging.getLogger(name).setLevel(before)


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="json", log_level="info"))
    LogContext("abc", "t1", "mini-lm").enter()
    log = logging.getLogger("lmaas.access")
    log.debug("not this")
    try:
        raise ValueError("é")
    except ValueError:
        log.exception("failed %s", "x", extra={"fields": {"status": 500}})
    LogContext().enter()
    (line,) = capsys.readouterr().err.splitlines()
    parsed = json.loads(line)
    assert (parsed["message"], parsed["request_id"], parsed["status"]) == ("failed x", "abc", 500)
    assert (parsed["task_id"], parsed["model"], parsed["logger"]) == ("t1", "mini-lm", "lmaas.access")
    assert "ValueError: é" in parsed["exception"]
    assert parsed["time"].endswith("Z")


def test_text_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_level="warning"))
    logging.getLogger("api.back").info("not this")
    logging.getLogger("api.back").warning("careful")
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "WARNING api.back careful [-]" in line


@pytest.mark.parametrize(
    ("form", "written"), [("text", "WARNING facade-2 api.back careful"), ("json", '"facade": "facade-2"')]
)
def test_one_of_several_facades_says_its_name(
    form: Literal["text", "json"], written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(Settings(log_format=form), "facade-2")
    logging.getLogger("api.back").warning("careful")
    assert written in capsys.readouterr().err


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_caller_sent_makes_no_line_and_steers_no_terminal(
    form: Literal["text", "json"], capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(Settings(log_format=form, log_level="info"))
    sent = "/v1/a\r\n2026-11-29 ERROR forged\x1b[2J\x9b2J\u2028\u0085\x7fé"
    try:
        raise ValueError(sent)
    except ValueError:
        logging.getLogger("lmaas.access").exception("GET %s", sent)
    written = capsys.readouterr().err
    assert not set("\r\x1b\x9b\u2028\u0085\x7f") & set(written)
    first, *others = written.rstrip("\n").split("\n")
    assert "forged" in first
    assert all(line.startswith("  ") for line in others)
    assert bool(others) is (form == "text")
