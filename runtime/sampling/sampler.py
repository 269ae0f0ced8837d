"""Choosing the next token of each sequence from its logits.

The order is that of transformers and vLLM: biases, repetition penalty (over prompt and generated tokens,
Keskar et al. 2019, https://arxiv.org/abs/1909.05858), presence and frequency penalties (over generated
tokens, as OpenAI defines them), temperature, top-k, top-p, min-p. Reported log-probabilities are the
log-softmax of the raw logits, before all of these, as in vLLM's default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from runtime.contract import FaultCode
from runtime.errors import RequestFault
from runtime.parameters import SamplingParameters
from runtime.sampling.distribution import Floats, Ids, draw, filtered, largest

NOT_FINITE = "the model's logits are not finite numbers"
NEVER = np.float32(-1e9)  # added to a logit: the token is drawn only where there is no other one


class Sampled(NamedTuple):
    """One chosen token."""

    token_id: int
    logprob: float  # NaN if it is not used
    top: list[tuple[int, float]]  # the `parameters.logprobs` likeliest tokens, likeliest first


class Choices(NamedTuple):
    """What a graph computed of each row of logits itself."""

    best: list[int]  # the first of the largest logits
    log_sum: list[float]  # logarithm of the sum of all exponentials

    def row(self, row: int) -> tuple[int, float]:
        return self.best[row], self.log_sum[row]


class SequenceSampler:
    """Random state and token counts of one sequence. Sequence `index` of a request has its own random stream.

    The same parameters with a seed, prompt and logits give the same tokens, whatever else is in the batch.
    """

    def __init__(
        self,
        parameters: SamplingParameters,
        prompt_ids: Sequence[int],
        index: int,
        *,
        with_logprob: bool = True,
        ends: Collection[int] = (),
    ) -> None:
        """`with_logprob` says whether the log-probabilities of chosen tokens are wanted: they cost most.

        `ends` are the tokens that `min_tokens` keeps from ending the sequence.
        """
        self.parameters = parameters
        self._with_logprob = with_logprob or parameters.logprobs is not None
        self._bias = Bias(parameters.logit_bias) if parameters.logit_bias else None
        self._early_ends = Bias(dict.fromkeys(ends, float(NEVER))) if ends and parameters.min_tokens else None
        self._num_sampled = 0
        seed = parameters.seed
        bits = (
            np.random.Philox() if seed is None else np.random.Philox(key=np.array([seed, index], np.uint64))
        )
        self._random = np.random.Generator(bits)
        self._penalties = Penalties(parameters, prompt_ids) if parameters.has_penalties else None
        self._mask: Callable[[], bytes] | None = None
        self._advance: Callable[[int], None] | None = None

    def follow(self, mask: Callable[[], bytes], advance: Callable[[int], None]) -> None:
        """`mask` returns one bit per token, the lowest first: whether it may come next.

        It may raise RequestFault. `advance` is called with each chosen token.
        """
        self._mask, self._advance = mask, advance

    @property
    def takes_best(self) -> bool:
        """The choice is the first of the largest logits."""
        return self.parameters.is_greedy and not self._changes_logits

    @property
    def _changes_logits(self) -> bool:
        return self._adds_to_logits or self._mask is not None

    @property
    def _adds_to_logits(self) -> bool:
        return self._penalties is not None or self._bias is not None or self._ends_too_early

    @property
    def _ends_too_early(self) -> bool:
        """The sequence may not end with the next token."""
        return self._early_ends is not None and self._num_sampled < self.parameters.min_tokens

    def can_sample_in_graph(self, max_top_k: int) -> bool:
        """Whether a graph with temperature, min-p and top-k up to this can choose as `sample` does."""
        parameters = self.parameters
        if parameters.logprobs or self._changes_logits:
            return False
        return parameters.is_greedy or (parameters.top_k <= max_top_k and parameters.top_p == 1.0)

    def uniform(self) -> float:
        """The number that decides the next draw."""
        return float(self._random.random())

    def from_graph(self, token_id: int, logit: float, log_sum: float) -> Sampled:
        """The token that the graph chose. Raises RequestFault like `sample`."""
        if not math.isfinite(logit) or not math.isfinite(log_sum):
            raise RequestFault.of(FaultCode.INTERNAL, NOT_FINITE)
        self._num_sampled += 1
        return Sampled(token_id, logit - log_sum, [])

    def sample(self, logits: Floats, best: int | None = None, log_sum: float | None = None) -> Sampled:
        """Choose from `logits` `[vocab] float32`, which are left as they are.

        `best` and `log_sum` are those of `Choices`, if they are known. Raises RequestFault (internal) if the
        model's logits are not finite numbers.
        """
        if best is None:
            best = int(logits.argmax())
        peak = float(logits[best])
        if not math.isfinite(peak):  # the largest is NaN if any is
            raise RequestFault.of(FaultCode.INTERNAL, NOT_FINITE)
        needs_sum = self._with_logprob and log_sum is None
        mask = None if self._mask is None else self._mask()
        token_id, takes_best = best, self.takes_best or self._best_is_allowed(best, mask)
        if needs_sum or not takes_best:
            shifted = logits - np.float32(peak)
            if needs_sum:
                log_sum = peak + math.log(float(np.exp(shifted).sum()))
            if not takes_best:
                token_id = self._choose(logits, shifted, best, mask)
        self._num_sampled += 1
        if self._penalties is not None:
            self._penalties.count(token_id)
        if self._advance is not None:
            self._advance(token_id)
        if log_sum is None:
            log_sum = math.nan
        top = [
            (token, float(logits[token]) - log_sum)
            for token in largest(logits, self.parameters.logprobs or 0).tolist()
        ]
        return Sampled(token_id, float(logits[token_id]) - log_sum, top)

    def _best_is_allowed(self, best: int, mask: bytes | None) -> bool:
        """A greedy choice that the grammar leaves as it is."""
        if mask is None or not self.parameters.is_greedy or self._adds_to_logits:
            return False
        return bool(mask[best >> 3] >> (best & 7) & 1)

    def _choose(self, logits: Floats, shifted: Floats, best: int, mask: bytes | None) -> int:
        """`shifted` is `logits` less their largest value, which is at `best`."""
        parameters = self.parameters
        if self._changes_logits:
            logits = self._changed(logits, mask)
            best = int(logits.argmax())
            shifted = logits - logits[best]
        if parameters.is_greedy:
            return best
        scores = (
            shifted if parameters.temperature == 1.0 else shifted * np.float32(1.0 / parameters.temperature)
        )
        ids, weights = filtered(scores, parameters.top_k, parameters.top_p, parameters.min_p)
        position = draw(weights, self.uniform())
        return position if ids is None else int(ids[position])

    def _changed(self, logits: Floats, mask: bytes | None) -> Floats:
        """A copy with biases and penalties; what the mask leaves out is -inf."""
        logits = logits.copy()
        if self._bias is not None:
            self._bias.add_to(logits)
        if self._early_ends is not None and self._ends_too_early:
            self._early_ends.add_to(logits)
        if self._penalties is not None:
            self._penalties.apply_to(logits)
        if mask is not None:
            bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=len(logits), bitorder="little")
            logits[bits == 0] = -np.inf
        return logits


class Bias:
    """What is added to the logits of some tokens."""

    def __init__(self, values: Mapping[int, float]) -> None:
        self._ids: Ids = np.fromiter(values, np.int64, len(values))
        self._values = np.fromiter(values.values(), np.float32, len(values))

    def add_to(self, logits: Floats) -> None:
        logits[self._ids] += self._values


class Penalties:
    """The tokens of one sequence and what their repetition costs."""

    def __init__(self, parameters: SamplingParameters, prompt_ids: Sequence[int]) -> None:
        self._repetition = np.float32(parameters.repetition_penalty)
        self._presence = parameters.presence_penalty
        self._frequency = parameters.frequency_penalty
        self._seen = set(prompt_ids)
        self._generated: dict[int, int] = {}

    def count(self, token_id: int) -> None:
        """Note a generated token."""
        self._seen.add(token_id)
        self._generated[token_id] = self._generated.get(token_id, 0) + 1

    def apply_to(self, logits: Floats) -> None:
        if self._repetition != 1.0 and self._seen:
            ids: Ids = np.fromiter(self._seen, np.int64, len(self._seen))
            seen = logits[ids]
            logits[ids] = np.where(seen > 0, seen / self._repetition, seen * self._repetition)
        if self._generated and (self._presence or self._frequency):
            ids = np.fromiter(self._generated, np.int64, len(self._generated))
            counts = np.fromiter(self._generated.values(), np.float32, len(self._generated))
            logits[ids] -= np.float32(self._presence) + np.float32(self._frequency) * counts


def sample_batch(
    samplers: Sequence[SequenceSampler], logits: Floats, choices: Choices | None = None
) -> list[Sampled | RequestFault]:
    """Call `sample` for each row of `logits` `[batch, vocab] float32`.

    A row that fails has its fault in its place, so that the others go on.
    """
    if choices is None:
        best: list[int] = logits.argmax(axis=1).tolist()
        return [_sampled_or_fault(*row, None) for row in zip(samplers, logits, best, strict=True)]
    return [_sampled_or_fault(*row) for row in zip(samplers, logits, *choices, strict=True)]


def _sampled_or_fault(
    sampler: SequenceSampler, logits: Floats, best: int, log_sum: float | None
) -> Sampled | RequestFault:
    try:
        return sampler.sample(logits, best, log_sum)
    except RequestFault as fault:
        return fault
