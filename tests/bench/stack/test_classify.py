"""What is sent to /v1/classify: one text as a string, more as a list, each once before any comes again."""

from __future__ import annotations

import json

import psutil
import pytest

from bench.stack.classify import POOL, HttpTexts, Shape, parse_shape
from bench.stack.running import Stack
from perf.errors import PlanError

TEXTS = [f"text {number}" for number in range(POOL)]


@pytest.mark.parametrize("size", [1, 16, 256])
def test_requests_of_any_number_of_texts(size: int) -> None:
    served = HttpTexts(Stack("http://127.0.0.1:1", psutil.Process()), "mini-sentiment", TEXTS)
    sent: list[str] = []
    for request in served.requests(Shape(size, 4)):
        head, _, body = request.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v1/classify HTTP/1.1\r\n")
        asked = json.loads(body)
        assert asked["model"] == "mini-sentiment"
        texts = asked["input"]
        assert isinstance(texts, str if size == 1 else list)
        sent += [texts] if isinstance(texts, str) else texts
    assert sent == TEXTS


def test_a_shape_in_words() -> None:
    assert str(Shape(16, 4)) == "4 requests under way, 16 texts each"


def test_a_request_that_is_not_full_is_left_out() -> None:
    served = HttpTexts(Stack("http://127.0.0.1:1", psutil.Process()), "mini-sentiment", TEXTS)
    assert len(served.requests(Shape(100, 1))) == POOL // 100


def test_a_shape_is_read() -> None:
    assert parse_shape("16x2") == Shape(16, 2)


@pytest.mark.parametrize("text", ["16", "16x", "0x2", "axb", "16x2x3", "257x1"])
def test_a_shape_that_is_none(text: str) -> None:
    with pytest.raises(PlanError, match="--lists: "):
        parse_shape(text)
