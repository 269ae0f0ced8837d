"""The plan of a run: targets, levels of load, the request, the duration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeVar

from perf.counts import distinct, parse_counts
from perf.errors import PlanError
from perf.http.ask import Api, Ask, Task
from perf.http.load import Arrivals, Extent
from perf.http.prompts import Texts
from perf.http.wire import Origin

Choice = TypeVar("Choice", bound=Enum)


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """A server under load, by the name it has in the report."""

    name: str
    url: str
    api: Api = Api.LMAAS
    model: str | None = None
    serves: str = ""  # what answered, in words
    key: str = field(default="", repr=False)  # that it asks for; the appliance's own goes to no peer

    @classmethod
    def parse(cls, text: str) -> LoadTarget:
        """`NAME=API@URL`, as `vllm=openai@http://127.0.0.1:8000`. Raises PlanError."""
        name, _, rest = text.partition("=")
        api, _, url = rest.partition("@")
        if not name or not url:
            raise PlanError(f"--peer: {text!r} is not NAME=API@URL, as vllm=openai@http://127.0.0.1:8000")
        return cls(name, url, parse_choice("--peer", Api, api))

    @property
    def origin(self) -> Origin:
        """Raises PlanError."""
        try:
            return replace(Origin.parse(self.url), key=self.key)
        except ValueError as error:
            raise PlanError(f"the URL of {self.name}: {error}") from error


@dataclass(frozen=True, slots=True)
class Level:
    """One load: `concurrency` requests under way, or `rate` requests per second where that is not None."""

    concurrency: int = 1
    rate: float | None = None

    @property
    def label(self) -> str:
        return f"{self.rate:.4g}/s" if self.rate is not None else f"{self.concurrency}"


@dataclass(frozen=True, slots=True)
class Plan:
    """`rounds` times through all levels, at each the targets in turn: drift affects all equally."""

    targets: Sequence[LoadTarget]
    levels: Sequence[Level]
    ask: Ask
    texts: Texts
    extent: Extent
    arrivals: Arrivals = Arrivals.POISSON
    rounds: int = 1
    timeout: float = 60.0  # seconds that one request may take
    seed: int = 0

    def check(self) -> None:
        """Raises PlanError for a plan that would fail, or mislead, when it runs."""
        for target in self.targets:
            _ = target.origin
            if target.api is Api.OPENAI and self.ask.task is not Task.GENERATE:
                raise PlanError(f"--task: OpenAI's API has no {self.ask.task.value}; only generate")
        names = [target.name for target in self.targets]
        if len(set(names)) < len(names):
            raise PlanError(f"--peer: names must differ, here they are {', '.join(names)}")
        next(self.texts.draw("check"))

    @property
    def open_loop(self) -> bool:
        return self.levels[0].rate is not None


def parse_choice(option: str, choices: type[Choice], text: str) -> Choice:
    """A member by its value. Raises PlanError."""
    try:
        return choices(text)
    except ValueError:
        known = ", ".join(choice.value for choice in choices)
        raise PlanError(f"{option}: {text!r} is not one of {known}") from None


def parse_levels(concurrency: str | None, rate: str | None) -> list[Level]:
    """From `1,4,16` or `2.5,5`; one of the two. Raises PlanError."""
    if (concurrency is None) == (rate is None):
        raise PlanError("give either --concurrency (a closed loop) or --rate (an open loop)")
    if concurrency is not None:
        return [Level(concurrency=number) for number in parse_counts("--concurrency", concurrency)]
    return [Level(rate=number) for number in _rates(str(rate))]


def _rates(text: str) -> list[float]:
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < 1e6 for rate in rates):
        raise PlanError(f"--rate: {text!r} is not a list of requests per second above 0, as 2.5,5,10")
    return distinct("--rate", rates)
