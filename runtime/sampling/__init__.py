"""Sampling: the parameters of a request and the choice of its next tokens."""

from runtime.parameters import DEFAULT_MAX_TOKENS, SamplingParameters
from runtime.sampling.distribution import largest, log_softmax
from runtime.sampling.parsing import parse_sampling_parameters
from runtime.sampling.sampler import Choices, Sampled, SequenceSampler, sample_batch

__all__ = [
    "DEFAULT_MAX_TOKENS",
    "Choices",
    "Sampled",
    "SamplingParameters",
    "SequenceSampler",
    "largest",
    "log_softmax",
    "parse_sampling_parameters",
    "sample_batch",
]
