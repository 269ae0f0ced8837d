from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from api.config import Settings
from api.front.middleware import request_id
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
    request_id.set("abc")
    log = logging.getLogger("lmaas.access")
    log.debug("not this")
    try:
        raise ValueError("é")
    except ValueError:
        log.exception("failed %s", "x", extra={"fields": {"status": 500}})
    request_id.set(None)
    (line,) = capsys.readouterr().err.splitlines()
    parsed = json.loads(line)
    assert (parsed["message"], parsed["request_id"], parsed["status"]) == ("failed x", "abc", 500)
    assert "ValueError: é" in parsed["exception"]
    assert parsed["time"].endswith("Z")


def test_text_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_level="warning"))
    logging.getLogger("api.back").info("not this")
    logging.getLogger("api.back").warning("careful")
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "WARNING api.back careful [-]" in line
