"""What is sent to /v1/classify: one text as a string, more as a list, each once before any comes again."""

from __future__ import annotations

import json

import psutil
import pytest

from perf.stack.classify import POOL, HttpTexts, Shape, best_rates
from perf.stack.running import Stack

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


def test_the_better_of_two_passes_counts() -> None:
    rates = iter([1.0, 9.0, 5.0, 2.0])
    assert best_rates(("a", "b"), lambda _: next(rates)) == {"a": 5.0, "b": 9.0}
