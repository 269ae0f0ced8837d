"""What the CUDA engine must satisfy; each check is a line of the report.

The reference is the fp32 graph on the CPU. Random weights give logits that lie close together, and fp16
rounds. Where two answers differ for the first time, the reference must give both tokens nearly the same
log-probability. What follows is another text and is not compared.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perf.errors import PerfError
from runtime.contract import Fault, Variant
from runtime.engine import Engine
from runtime.golden_rules import TOLERANCE
from runtime.messages import Answer, Generated, TokenLogprob
from runtime.request import Request
from runtime.sampling import SamplingParameters

ALLOWED = TOLERANCE[Variant.FP16]  # nats
NEW_TOKENS = 32
LISTED = 20  # alternatives of the reference in which the other token is looked for
EQUAL_SHARE = 0.9  # of sampled answers: rounding may move a draw from one token to its neighbour
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": NEW_TOKENS}
SAMPLED: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.8, "seed": 5},
    "top-k": {"temperature": 1.0, "seed": 6, "top_k": 40},
    "min-p": {"temperature": 1.2, "seed": 7, "min_p": 0.05},
    "top-p, on the host": {"temperature": 1.0, "seed": 8, "top_p": 0.9},
}


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    held: bool
    found: str


def check_engine(cuda: Engine, cpu: Engine, texts: Sequence[str]) -> list[Check]:
    """All checks; `texts` are of different lengths, some longer than a chunk of prefill."""
    wanted = [records(one) for text in texts for one in ask(cpu, [text], **GREEDY, logprobs=LISTED)]
    alone = [tokens(ask(cuda, [text], **GREEDY)[0]) for text in texts]
    checks = [
        _close("greedy tokens, alone", wanted, alone),
        _close("greedy tokens, together", wanted, list(map(tokens, ask(cuda, texts, **GREEDY)))),
        _same_numbers(cuda, wanted, texts),
        _prompt_numbers(cuda, cpu, texts),
        _prefix(cuda, texts),
    ]
    for name, parameters in SAMPLED.items():
        checks.append(_seeded(name, cuda, texts, parameters))
    return checks


def parting(expected: Sequence[TokenLogprob], found: Sequence[int]) -> tuple[int, float]:
    """The first place where two answers differ, and by how many nats the reference prefers its own token.

    (length, 0) where they are equal.
    """
    for place, (record, token) in enumerate(zip(expected, found, strict=True)):
        if record.token_id != token:
            other = next((item.logprob for item in record.top if item.token_id == token), -float("inf"))
            return place, (record.logprob or 0.0) - (other or 0.0)
    return len(found), 0.0


def _close(name: str, wanted: Sequence[Sequence[TokenLogprob]], found: Sequence[list[int]]) -> Check:
    partings = [parting(one, other) for one, other in zip(wanted, found, strict=True)]
    gap, whole = max(gap for _, gap in partings), sum(place == NEW_TOKENS for place, _ in partings)
    text = (
        f"{whole} of {len(found)} answers are the CPU's; others part where it is tied within {gap:.3g} nats"
    )
    return Check(name, gap <= ALLOWED, text)


def _same_numbers(cuda: Engine, wanted: Sequence[Sequence[TokenLogprob]], texts: Sequence[str]) -> Check:
    """Of the tokens before the first difference."""
    largest = 0.0
    for expected, answer in zip(wanted, ask(cuda, texts, **GREEDY, logprobs=0), strict=True):
        place, _ = parting(expected, tokens(answer))
        pairs = zip(expected[:place], records(answer)[:place], strict=True)
        largest = max([largest, *(_apart(one, other) for one, other in pairs)])
    return Check("log-probabilities of tokens", largest <= ALLOWED, f"at most {largest:.3g} nats apart")


def _prompt_numbers(cuda: Engine, cpu: Engine, texts: Sequence[str]) -> Check:
    """Of the prompts themselves, run in chunks."""
    parameters: dict[str, Any] = {"temperature": 0, "max_tokens": 1, "echo": True, "logprobs": 0}
    largest = 0.0
    for one, other in zip(ask(cpu, texts, **parameters), ask(cuda, texts, **parameters), strict=True):
        pairs = zip(records(one)[1:-1], records(other)[1:-1], strict=True)
        largest = max([largest, *(_apart(left, right) for left, right in pairs)])
    return Check("log-probabilities of prompts", largest <= ALLOWED, f"at most {largest:.3g} nats apart")


def _apart(one: TokenLogprob, other: TokenLogprob) -> float:
    return abs((one.logprob or 0.0) - (other.logprob or 0.0))


def _prefix(cuda: Engine, texts: Sequence[str]) -> Check:
    before = cuda.stats().reused_tokens
    first, second = (tokens(ask(cuda, [texts[-1]], **GREEDY)[0]) for _ in range(2))
    reused = cuda.stats().reused_tokens - before
    return Check("a prefix taken over", reused > 0 and first == second, f"{reused} tokens were not run again")


def _seeded(name: str, cuda: Engine, texts: Sequence[str], parameters: dict[str, Any]) -> Check:
    wanted: dict[str, Any] = {"max_tokens": NEW_TOKENS, **parameters}
    alone, again = ([tokens(ask(cuda, [text], **wanted)[0]) for text in texts] for _ in range(2))
    together = list(map(tokens, ask(cuda, texts, **wanted)))
    same = sum(one == other for one, other in zip(alone, together, strict=True))
    held = alone == again and same >= EQUAL_SHARE * len(texts)
    return Check(f"a seed: {name}", held, f"{same} of {len(texts)} answers are the same alone and together")


_numbers = itertools.count()


class Sink:
    """Keeps how one request ended."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.answer: Generated | None = None
        self.fault: Fault | None = None

    def send(self, answer: Answer, *, final: bool) -> None:
        if isinstance(answer, Generated) and final:
            self.answer = answer
        if final:
            self.over.set()

    def fail(self, fault: Fault) -> None:
        self.fault = fault
        self.over.set()


def ask(engine: Engine, texts: Sequence[str], **parameters: Any) -> list[Generated]:
    """Whole answers to all texts at once. Raises PerfError where one fails."""
    sinks = [Sink() for _ in texts]
    for text, sink in zip(texts, sinks, strict=True):
        chosen = SamplingParameters(ignore_eos=True, **parameters)
        engine.submit(Request(f"check-{next(_numbers)}", text, parameters=chosen), sink)
    answers = []
    for sink in sinks:
        sink.over.wait()
        if sink.answer is None:
            raise PerfError(f"the engine failed: {sink.fault.encode() if sink.fault else 'no answer'}")
        answers.append(sink.answer)
    return answers


def tokens(answer: Generated) -> list[int]:
    return list(answer.choices[0].token_ids)


def records(answer: Generated) -> list[TokenLogprob]:
    """Of an answer to a request with `logprobs`."""
    return list(answer.choices[0].logprobs or [])
