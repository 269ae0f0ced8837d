"""What the CUDA engine must hold to, each a line of the report.

The reference is the fp32 graph on the CPU. Random weights give logits that lie close together, and fp16
rounds: where two answers part, the token of one must be as good as tied in the eyes of the other. What
follows is another text and says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perf.gpu.answers import ask, records, tokens
from runtime.answers import TokenRecord
from runtime.contract import Variant
from runtime.engine import Engine
from runtime.golden import TOLERANCE

ALLOWED = TOLERANCE[Variant.FP16]  # nats
NEW_TOKENS = 32
LISTED = 20  # alternatives in which a token that is as good as tied is looked for
EQUAL_SHARE = 0.9  # of sampled answers: a draw at the edge of a token's share may fall to either side


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


def parting(expected: Sequence[TokenRecord], found: Sequence[int]) -> tuple[int, float]:
    """Where two answers part, and by how many nats the reference prefers its own; (length, 0) if nowhere."""
    for place, (record, token) in enumerate(zip(expected, found, strict=True)):
        if record.token_id != token:
            other = next((item.logprob for item in record.top if item.token_id == token), -float("inf"))
            return place, (record.logprob or 0.0) - (other or 0.0)
    return len(found), 0.0


def _close(name: str, wanted: Sequence[Sequence[TokenRecord]], found: Sequence[list[int]]) -> Check:
    partings = [parting(one, other) for one, other in zip(wanted, found, strict=True)]
    gap, whole = max(gap for _, gap in partings), sum(place == NEW_TOKENS for place, _ in partings)
    text = (
        f"{whole} of {len(found)} answers are the CPU's; others part where it is tied within {gap:.3g} nats"
    )
    return Check(name, gap <= ALLOWED, text)


def _same_numbers(cuda: Engine, wanted: Sequence[Sequence[TokenRecord]], texts: Sequence[str]) -> Check:
    """Of the tokens up to where the answers part."""
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


def _apart(one: TokenRecord, other: TokenRecord) -> float:
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
