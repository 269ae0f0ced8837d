"""A canary: a deployment that is watched beside the others of its model, and loses its traffic if it is bad.

Its figures come from the requests that its traffic weight brings it, and from its shadow share: copies of
requests to the other deployments, whose answers are compared and thrown away (`shadow`).
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from api.back.cluster.records import HeadAnswer
from api.back.store.records import CanaryFigures, CanaryPolicy
from runtime.messages import Answer, Candidates, Generated, Scored
from runtime.parameters import GREEDY_TEMPERATURE

WINDOW = 1000  # the last requests that count, or `min_requests` where that is more

# What answers are compared by: token ids or labels, one list for each text.
Essence = list[list[Any]]


class Outcomes:
    """Of the last requests: which failed, and how long the others took."""

    def __init__(self, size: int) -> None:
        self._failed: deque[bool] = deque(maxlen=size)
        self._seconds: deque[float] = deque(maxlen=size)

    def failed(self) -> None:
        self._failed.append(True)

    def succeeded(self, seconds: float) -> None:
        """`seconds` without those in a queue; of a generation, for each of its tokens."""
        self._failed.append(False)
        self._seconds.append(seconds)

    def __len__(self) -> int:
        return len(self._failed)

    @property
    def error_rate(self) -> float:
        return sum(self._failed) / len(self._failed) if self._failed else 0.0

    @property
    def seconds(self) -> float | None:
        """The median; None where none succeeded."""
        return statistics.median(self._seconds) if self._seconds else None


class Watch:
    """What the requests to a canary came to, and meanwhile those to the other deployments of its model."""

    def __init__(self, policy: CanaryPolicy) -> None:
        self.policy = policy
        self.own = Outcomes(max(WINDOW, policy.min_requests))
        self.others = Outcomes(max(WINDOW, policy.min_requests))
        self.dropped = 0  # copies for which there was no room
        self._agreement: deque[float] = deque(maxlen=max(WINDOW, policy.min_requests))
        self._due = 0.0
        self._begin = time.monotonic()

    def takes_copy(self) -> bool:
        """Whether the present request to another deployment is one of its shadow share."""
        self._due += self.policy.shadow
        if self._due < 1.0:
            return False
        self._due -= 1.0
        return True

    def compared(self, share: float) -> None:
        """A copy was answered, and this share of it is as the answer that the caller got."""
        self._agreement.append(share)

    @property
    def figures(self) -> CanaryFigures:
        own, others = self.own.seconds, self.others.seconds
        return CanaryFigures(
            requests=len(self.own),
            requests_of_others=len(self.others),
            compared=len(self._agreement),
            dropped=self.dropped,
            error_rate=self.own.error_rate,
            error_rate_of_others=self.others.error_rate,
            latency_ratio=own / others if own is not None and others else None,
            disagreement=1.0 - statistics.fmean(self._agreement) if self._agreement else None,
            seconds=time.monotonic() - self._begin,
        )

    def fault(self) -> str | None:
        """The bound that it has passed, with the figures; None where there is none or too little is known."""
        bounds, found = self.policy, self.figures
        enough = bounds.min_requests
        if found.requests >= enough and found.error_rate > found.error_rate_of_others + bounds.max_error_rate:
            return (
                f"error rate {found.error_rate:.3g}, at most {bounds.max_error_rate:g} above the "
                f"{found.error_rate_of_others:.3g} of the others"
            )
        known = min(found.requests, found.requests_of_others) >= enough
        if known and found.latency_ratio is not None and found.latency_ratio > bounds.max_latency_ratio:
            return (
                f"{found.latency_ratio:.3g} times the latency of the others, at most "
                f"{bounds.max_latency_ratio:g}"
            )
        limit = bounds.max_disagreement
        if limit is not None and found.compared >= enough and (found.disagreement or 0.0) > limit:
            return f"disagreement {found.disagreement:.3g} with the others' answers, at most {limit:g}"
        return None


def essence(answers: Sequence[Answer], parameters: Mapping[str, Any]) -> Essence | None:
    """What of an answer, or of its pieces, another deployment should answer as well; None: nothing.

    A generation by chance is not compared.
    """
    first = answers[0] if answers else None
    if isinstance(first, Generated):
        if parameters.get("temperature", 1.0) >= GREEDY_TEMPERATURE:
            return None
        tokens: dict[int, list[int]] = {}
        for piece in answers:
            for choice in piece.choices if isinstance(piece, Generated) else ():
                tokens.setdefault(choice.index, []).extend(choice.token_ids)
        return [tokens[index] for index in sorted(tokens)]
    if isinstance(first, Scored):
        return [[max(range(len(first.scores)), key=lambda number: first.scores[number].logprob)]]
    if isinstance(first, Candidates):
        return [[first.candidates[0].token_id]]
    return None


def labels(answers: Sequence[HeadAnswer]) -> Essence:
    """The same of a model with a trained head."""
    return [[answer.label] for answer in answers]


def agreement(one: Essence, other: Essence) -> float:
    """0 to 1: the mean over the texts of the share that is equal from their beginning on."""
    shares = []
    for first, second in zip(one, other, strict=False):
        longest = max(len(first), len(second))
        equal = next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
        common = min(len(first), len(second)) if equal is None else equal
        shares.append(common / longest if longest else 1.0)
    return sum(shares) / max(len(one), len(other), 1)


def service_seconds(elapsed: float, answers: Sequence[Answer]) -> float:
    """Seconds of a request without those in the engine's queue; of a generation, for each of its tokens."""
    last = answers[-1] if answers else None
    if isinstance(last, Generated) and last.usage is not None:
        if last.timings is not None:
            elapsed = max(0.0, elapsed - last.timings.queue_seconds)
        return elapsed / max(1, last.usage.completion_tokens)
    return elapsed
