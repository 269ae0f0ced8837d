"""Choosing tokens: definitions of penalties, reproducible streams, distributions, batches."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from runtime.contract import FaultCode
from runtime.errors import RequestFault
from runtime.sampling import Choices, Sampled, SamplingParameters, SequenceSampler, log_softmax, sample_batch
from runtime.sampling.sampler import Penalties

Floats = NDArray[np.float32]


def random_logits(size: int, seed: int = 0, spread: float = 2.0) -> Floats:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


def sampler(prompt: list[int] | None = None, index: int = 0, **parameters: Any) -> SequenceSampler:
    return SequenceSampler(SamplingParameters(**parameters), prompt or [], index)


def tokens(one: SequenceSampler, logits: Floats, count: int) -> list[int]:
    return [one.sample(logits).token_id for _ in range(count)]


@pytest.mark.parametrize("temperature", [0.0, 9e-6])
def test_greedy_takes_the_first_of_the_largest(temperature: float) -> None:
    logits = np.array([0, 3, -1, 3], np.float32)
    assert tokens(sampler(temperature=temperature, top_k=2, top_p=0.1), logits, 3) == [1, 1, 1]


@pytest.mark.parametrize("temperature", [1e-5, 1e-4, 0.01])
def test_a_tiny_temperature_is_nearly_greedy(temperature: float) -> None:
    logits = np.array([-np.inf, 1e4, -1e4, 9.9e3], np.float32)
    assert tokens(sampler(temperature=temperature), logits, 20) == [1] * 20


def test_seeds_and_indices_give_streams_of_their_own() -> None:
    logits = random_logits(5000)
    first = tokens(sampler(seed=7), logits, 50)
    assert first == tokens(sampler(seed=7), logits, 50)
    others = [sampler(seed=8), sampler(seed=7, index=1), sampler(seed=2**63 - 1), sampler(), sampler()]
    streams = [first, *(tokens(other, logits, 50) for other in others)]
    assert len({tuple(stream) for stream in streams}) == len(streams)


def test_a_seed_means_the_same_tokens_in_every_release() -> None:
    """Callers keep seeds; a changed stream is a change of the interface."""
    logits = random_logits(1000, seed=3)
    assert tokens(sampler(seed=0), logits, 8) == tokens(sampler(seed=0, top_k=0, top_p=1.0), logits, 8)
    uniforms = np.random.Generator(np.random.Philox(key=np.array([5, 2], np.uint64))).random(8)
    running = np.cumsum(np.exp(logits.astype(np.float64)))
    expected = np.searchsorted(running / running[-1], uniforms).tolist()
    assert tokens(sampler(seed=5, index=2), logits, 8) == expected


def expected_probabilities(logits: Floats, temperature: float, top_k: int, top_p: float, min_p: float) -> Any:
    """The definition, by sorting everything in double precision."""
    scores = logits.astype(np.float64) / temperature
    order = np.argsort(-scores, kind="stable")
    probabilities = np.exp(scores - scores.max())
    if top_k:
        probabilities[order[top_k:]] = 0
    probabilities /= probabilities.sum()
    before = np.cumsum(probabilities[order]) - probabilities[order]
    probabilities[order[before >= top_p]] = 0
    probabilities[probabilities < min_p * probabilities.max()] = 0
    return probabilities / probabilities.sum()


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
        {"temperature": 0.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
        {"temperature": 3.0, "top_k": 7, "top_p": 1.0, "min_p": 0.0},
        {"temperature": 1.0, "top_k": 0, "top_p": 0.8, "min_p": 0.0},
        {"temperature": 1.5, "top_k": 10, "top_p": 0.9, "min_p": 0.1},
    ],
)
def test_draws_follow_the_distribution(parameters: dict[str, Any]) -> None:
    logits, draws = random_logits(24, seed=4), 8000
    expected = expected_probabilities(logits, **parameters)
    counts = Counter(tokens(sampler(seed=11, **parameters), logits, draws))
    allowed = np.flatnonzero(expected)
    assert set(counts) <= set(allowed.tolist())
    found = np.array([counts[token] for token in allowed])
    wanted = expected[allowed] * draws
    common = wanted >= 5  # Pearson's statistic is not chi-squared for rarer ones
    statistic = float(((found - wanted)[common] ** 2 / wanted[common]).sum())
    freedom = int(common.sum())
    assert statistic < freedom + 3 * np.sqrt(2 * freedom) + 1
    assert abs(found[~common].sum() - wanted[~common].sum()) <= 4 * np.sqrt(wanted[~common].sum()) + 1


def test_logprobs_are_those_of_the_raw_logits() -> None:
    logits = random_logits(3000)
    one = sampler([1, 2], temperature=0.3, top_k=5, repetition_penalty=1.8, logprobs=4, seed=1)
    expected = log_softmax(logits)
    likeliest = np.argsort(-expected, kind="stable")[:4].tolist()
    for _ in range(10):
        sampled = one.sample(logits)
        assert sampled.logprob == pytest.approx(float(expected[sampled.token_id]), abs=1e-5)
        assert [token for token, _ in sampled.top] == likeliest
        assert [value for _, value in sampled.top] == pytest.approx(expected[likeliest].tolist(), abs=1e-5)


@pytest.mark.parametrize(("logprobs", "count"), [(None, 0), (0, 0), (1, 1), (20, 6)])
def test_number_of_alternatives(logprobs: int | None, count: int) -> None:
    assert len(sampler(logprobs=logprobs).sample(random_logits(6)).top) == count


@pytest.mark.parametrize("parameters", [{"temperature": 0.0}, {"temperature": 0.7, "top_p": 0.9}, {}])
def test_a_logprob_that_nobody_wants_changes_no_token(parameters: dict[str, Any]) -> None:
    chosen = SamplingParameters(**parameters, seed=3)
    logits = random_logits(9)
    wanted, unwanted = (SequenceSampler(chosen, [], 0, with_logprob=with_) for with_ in (True, False))
    for _ in range(20):
        sampled = unwanted.sample(logits)
        assert sampled.token_id == wanted.sample(logits).token_id
        assert math.isnan(sampled.logprob)
    asked = SequenceSampler(SamplingParameters(logprobs=0), [], 0, with_logprob=False)
    assert math.isfinite(asked.sample(logits).logprob), "who asks for records wants it"


def test_logits_are_left_as_they_are() -> None:
    logits = random_logits(100)
    logits.flags.writeable = False
    one = sampler(
        [1], repetition_penalty=2.0, presence_penalty=1.0, frequency_penalty=1.0, temperature=0.5, min_p=0.1
    )
    assert len(tokens(one, logits, 3)) == 3


@pytest.mark.parametrize("penalty", [0.01, 0.7, 1.3, 100.0])
def test_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    logits, prompt, generated = random_logits(50), [3, 3, 7, 49], [8, 7, 8]
    penalties = Penalties(SamplingParameters(repetition_penalty=penalty), prompt)
    for token in generated:
        penalties.count(token)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor([prompt + generated]), torch.from_numpy(logits.copy())[None])[0]
    penalties.apply_to(logits)
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-6)


def test_presence_and_frequency_count_generated_tokens_alone() -> None:
    """`logit - count * frequency - (count > 0) * presence`, as OpenAI's documentation writes it."""
    logits, generated = random_logits(20), [4, 4, 4, 9]
    penalties = Penalties(SamplingParameters(presence_penalty=0.5, frequency_penalty=-0.25), [1, 4])
    for token in generated:
        penalties.count(token)
    counts = np.bincount(generated, minlength=20)
    expected = logits + 0.25 * counts - 0.5 * (counts > 0)
    penalties.apply_to(logits)
    np.testing.assert_allclose(logits, expected, rtol=1e-6)


def test_greedy_with_penalties_moves_on() -> None:
    logits = np.array([1.0, 0.9, 0.8, -5], np.float32)
    assert tokens(sampler(temperature=0.0, presence_penalty=0.5), logits, 4) == [0, 1, 2, 0]
    assert tokens(sampler([0], temperature=0.0, repetition_penalty=2.0), logits, 2) == [1, 2]


MIXED: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, "logprobs": 3},
    {"temperature": 0.0, "frequency_penalty": 1.0},
    {"seed": 1},
    {"seed": 1, "top_k": 40, "temperature": 0.7},
    {"seed": 2, "top_p": 0.9, "logprobs": 20},
    {"seed": 3, "min_p": 0.05, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("chosen", [MIXED, MIXED[:2], MIXED[:1] * 5, MIXED[3:]])
@pytest.mark.parametrize("size", [17, 5003])
def test_a_batch_answers_bit_for_bit_like_single_rows(chosen: list[dict[str, Any]], size: int) -> None:
    batched = [sampler([5, 6], index, **parameters) for index, parameters in enumerate(chosen)]
    single = [sampler([5, 6], index, **parameters) for index, parameters in enumerate(chosen)]
    for step in range(12):
        logits = np.stack([random_logits(size, seed=100 * step + row) for row in range(len(chosen))])
        expected = [one.sample(row.copy()) for one, row in zip(single, logits, strict=True)]
        assert sample_batch(batched, logits) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_row_fails_alone(bad: float) -> None:
    logits = np.stack([random_logits(30, seed=row) for row in range(3)])
    logits[1, 4] = bad
    choices: list[dict[str, Any]] = [{"temperature": 0.0}, {"seed": 1, "top_p": 0.5}]
    for parameters in choices:
        samplers = [sampler(**parameters) for _ in range(3)]
        first, second, third = sample_batch(samplers, logits)
        assert isinstance(first, Sampled)
        assert isinstance(third, Sampled)
        assert isinstance(second, RequestFault)
        assert second.fault.code is FaultCode.INTERNAL


def test_a_row_without_any_possible_token_fails() -> None:
    with pytest.raises(RequestFault, match="not finite"):
        sampler().sample(np.full(5, -np.inf, np.float32))


def test_masked_tokens_are_never_drawn() -> None:
    logits = random_logits(600)
    logits[::2] = -np.inf
    assert all(token % 2 for token in tokens(sampler(seed=1, temperature=5.0), logits, 300))


def test_what_a_graph_found_already_changes_no_token() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 500)).astype(np.float32) * 5
    sums = np.logaddexp.reduce(logits.astype(np.float64), axis=1)
    known = Choices(logits.argmax(axis=1).tolist(), sums.tolist())
    chosen = [SamplingParameters(temperature=0), SamplingParameters(seed=3, logprobs=2)] * 2

    def sampled(choices: Choices | None) -> list[Sampled]:
        found = sample_batch([SequenceSampler(item, [], 0) for item in chosen], logits, choices)
        return [item for item in found if isinstance(item, Sampled)]

    for own, told in zip(sampled(None), sampled(known), strict=True):
        assert told.token_id == own.token_id
        assert told.logprob == pytest.approx(own.logprob, abs=1e-5)
        assert [token for token, _ in told.top] == [token for token, _ in own.top]


def test_a_bias_is_added_before_the_choice_and_changes_no_reported_logprob() -> None:
    logits = random_logits(50)
    best = int(logits.argmax())
    assert tokens(sampler(temperature=0.0, logit_bias={best: -100.0}), logits, 1) != [best]
    wanted = sampler(temperature=0.0, logit_bias={7: 100.0, best: 1.0}, logprobs=1).sample(logits)
    assert wanted.token_id == 7
    assert wanted.logprob == pytest.approx(float(log_softmax(logits)[7]), abs=1e-5)
    assert wanted.top[0][0] == best


def test_a_biased_draw_follows_the_biased_logits() -> None:
    logits, biased = random_logits(50), random_logits(50)
    biased[[3, 9]] += np.array([2.5, -4], np.float32)
    found = tokens(sampler(seed=3, logit_bias={3: 2.5, 9: -4.0}), logits, 40)
    assert found == tokens(sampler(seed=3), biased, 40) != tokens(sampler(seed=3), logits, 40)


@pytest.mark.parametrize("parameters", [{"temperature": 0.0}, {"seed": 5}])
def test_no_end_before_min_tokens_and_none_is_forbidden_after_them(parameters: dict[str, Any]) -> None:
    logits = np.array([9, 0, 1, 2], np.float32)
    one = SequenceSampler(SamplingParameters(min_tokens=6, **parameters), [], 0, ends=[0])
    assert not one.can_sample_in_graph(64)
    found = tokens(one, logits, 6)
    assert 0 not in found
    assert one.can_sample_in_graph(64)
    assert 0 in tokens(one, logits, 6)


def test_top_p_of_nothing_is_the_likeliest_token() -> None:
    logits = random_logits(5000)
    assert set(tokens(sampler(top_p=0.0, temperature=2.0), logits, 5)) == {int(logits.argmax())}
