"""The request that a load sends: its task, route and body."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import cycle, islice
from typing import Any

from perf.http.prompts import Texts
from perf.http.wire import Origin

POOL = 4096  # distinct requests of one load; a longer load repeats them


class Api(str, Enum):
    """Whose shapes are spoken."""

    LMAAS = "lmaas"
    OPENAI = "openai"


class Task(str, Enum):
    """Named as LMaaS's routes are."""

    GENERATE = "generate"
    CLASSIFY = "classify"
    INFER = "infer"
    NLU = "nlu"


@dataclass(frozen=True, slots=True)
class Ask:
    """The same for every request of a load except the text. The last four are for task `generate` only."""

    task: Task
    max_tokens: int = 64
    ignore_eos: bool = False
    temperature: float = 0.0
    stream: bool = True

    @property
    def streamed(self) -> bool:
        return self.task is Task.GENERATE and self.stream

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling parameters, as Triton's clients send them."""
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, "ignore_eos": self.ignore_eos}

    def described(self, texts: Texts) -> str:
        if self.task is not Task.GENERATE:
            return f"task {self.task.value}, texts of {texts.length}"
        end = "past the end-of-text token" if self.ignore_eos else "until the end of text"
        how = "streamed" if self.stream else "answered whole"
        return f"task generate, prompts of {texts.length}, at most {self.max_tokens} new tokens {end}, {how}"

    def path(self, api: Api) -> str:
        return "/v1/completions" if api is Api.OPENAI else f"/v1/{self.task.value}"

    def body(self, text: str, api: Api, model: str | None) -> dict[str, Any]:
        asked = self._of_task(text)
        if self.streamed and api is Api.OPENAI:
            asked["stream_options"] = {"include_usage": True}
        return asked if model is None else {"model": model, **asked}

    def _of_task(self, text: str) -> dict[str, Any]:
        if self.task is Task.INFER:
            premise, hypothesis = halves(text)
            return {"premise": premise, "hypothesis": hypothesis}
        if self.task is not Task.GENERATE:
            return {"input": text}
        asked: dict[str, Any] = {
            "prompt": text,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "stream": self.stream,
        }
        return {**asked, "ignore_eos": True} if self.ignore_eos else asked


def halves(text: str) -> tuple[str, str]:
    """A text as premise and hypothesis: the longer half first."""
    words = text.split(" ")
    middle = (len(words) + 1) // 2
    return " ".join(words[:middle]), " ".join(words[middle:]) or words[-1]


def requests(
    origin: Origin, api: Api, model: str | None, ask: Ask, texts: Texts, seed: str, most: int | None
) -> Iterator[bytes]:
    """Whole requests, made in advance: `most` of them where it is known how many there will be."""
    count = POOL if most is None else max(1, min(POOL, most))
    path = ask.path(api)
    return cycle(
        [
            origin.post(path, json.dumps(ask.body(text, api, model)).encode())
            for text in islice(texts.draw(seed), count)
        ]
    )
