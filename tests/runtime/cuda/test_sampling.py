"""Tokens chosen in the graph are those that the host would have chosen from the same logits and numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from kernels.fusion import ARGMAX, LOG_SUM
from kernels.session import CPU
from runtime.cuda.sampling import (
    BEST_OUTPUTS,
    BLOCK,
    DRAW_OUTPUTS,
    DRAWN,
    DRAWN_LOGIT,
    INVERSE_TEMPERATURE,
    LOGITS,
    MAX_TOP_K,
    MIN_P,
    PEAK,
    TOP_K,
    UNIFORM,
    append_best,
    draw_graph,
)
from runtime.sampling import SamplingParameters, SequenceSampler, log_softmax
from tests.runtime.cuda.cuda_kernels import without_cuda_kernel

Outputs = dict[str, NDArray[Any]]
Choose = Callable[..., Outputs]
BEST, DRAW = list(BEST_OUTPUTS), list(DRAW_OUTPUTS)


def graph_of(vocab: int) -> onnx.ModelProto:
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", vocab]) for name in ("x", "logits")
    ]
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["logits"])], "logits", [values[0]], [values[1]]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    append_best(model, "logits")
    return model


@pytest.fixture(scope="module")
def choose() -> Choose:
    """The outputs of both graphs."""

    @functools.cache
    def session_of(make: Callable[[int], onnx.ModelProto], vocab: int) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(make(vocab).SerializeToString(), providers=[CPU])

    def run(logits: NDArray[np.float32], **wishes: list[float]) -> Outputs:
        rows, vocab = logits.shape
        columns: dict[str, NDArray[Any]] = {
            INVERSE_TEMPERATURE: np.ones((rows, 1), np.float32),
            TOP_K: np.zeros((rows, 1), np.int64),
            MIN_P: np.zeros((rows, 1), np.float32),
            UNIFORM: np.full((rows, 1), 0.5),
        }
        for name, values in wishes.items():
            columns[name][:, 0] = values
        best = dict(zip(BEST, session_of(graph_of, vocab).run(BEST, {"x": -logits}), strict=True))
        given = {LOGITS: logits, PEAK: best[PEAK], **columns}
        return best | dict(zip(DRAW, session_of(draw_graph, vocab).run(DRAW, given), strict=True))

    return run


def logits_of(seed: int, rows: int, vocab: int) -> NDArray[np.float32]:
    """Rounded as float16 products are, so that some tie."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, vocab)) * 4
    return values.astype(np.float16).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    vocab=st.sampled_from([7, BLOCK - 1, BLOCK, BLOCK + 1, 1000, 3 * BLOCK]),
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, MAX_TOP_K),
    min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
)
def test_a_draw_is_the_hosts(
    choose: Choose, seed: int, vocab: int, temperature: float, top_k: int, min_p: float
) -> None:
    rows = 4
    logits, top_k = logits_of(seed, rows, vocab), min(top_k, vocab)
    parameters = SamplingParameters(temperature=temperature, top_k=top_k, min_p=min_p, seed=seed)
    assert SequenceSampler(parameters, [], 0).can_sample_in_graph(MAX_TOP_K)
    uniforms = [SequenceSampler(parameters, [], row).uniform() for row in range(rows)]
    found = choose(
        logits,
        **{
            INVERSE_TEMPERATURE: [1 / temperature] * rows,
            TOP_K: [top_k] * rows,
            MIN_P: [min_p] * rows,
            UNIFORM: uniforms,
        },
    )
    for row in range(rows):
        expected = SequenceSampler(parameters, [], row).sample(logits[row])
        sampler = SequenceSampler(parameters, [], row)
        token = int(found[DRAWN][row])
        drawn = sampler.from_graph(token, float(found[DRAWN_LOGIT][row]), float(found[LOG_SUM][row]))
        assert drawn.token_id == expected.token_id
        assert drawn.logprob == pytest.approx(expected.logprob, abs=2e-5)


@pytest.mark.parametrize("vocab", [1, 5, 1000, 50257])
def test_the_best_is_the_first_of_the_largest(choose: Choose, vocab: int) -> None:
    logits = logits_of(vocab, 6, vocab)
    logits[1, vocab // 2 :] = logits[1].max()
    logits[2] = -7.0
    found = choose(logits)
    assert found[ARGMAX].tolist() == logits.argmax(axis=1).tolist()
    assert found[PEAK].tolist() == logits.max(axis=1).tolist()
    expected = (logits - log_softmax(logits))[:, 0]
    assert found[LOG_SUM] == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("uniform", [0.0, 0.25, 1 - 2**-53])
def test_a_draw_never_falls_on_what_has_no_weight(choose: Choose, uniform: float) -> None:
    logits = np.full((1, 2 * BLOCK + 3), -np.float32(500))
    logits[0, 9] = 0
    for place in (9, BLOCK + 4):
        logits[0, place] = 0
        found = choose(logits, **{UNIFORM: [uniform]})
        assert found[DRAWN][0] == (place if uniform > 0.5 else 9)


def test_draws_follow_the_probabilities(choose: Choose) -> None:
    logits = np.tile(logits_of(3, 1, 600) / 2, (2000, 1))
    uniforms = (np.arange(2000) + 0.5) / 2000
    counts = np.bincount(choose(logits, **{UNIFORM: uniforms.tolist()})[DRAWN], minlength=600)
    assert np.abs(counts / 2000 - np.exp(log_softmax(logits[0]))).max() < 1 / 1000


def test_rows_do_not_know_of_each_other(choose: Choose) -> None:
    logits = logits_of(5, 8, 777)
    wishes: dict[str, list[float]] = {
        INVERSE_TEMPERATURE: [1.5] * 8,
        TOP_K: [0, 1, 5, 9, 0, 0, 64, 2],
        UNIFORM: [0.37] * 8,
    }
    together = choose(logits, **wishes)
    for row in range(8):
        alone = choose(logits[row : row + 1], **{name: [values[row]] for name, values in wishes.items()})
        assert all(alone[name][0] == together[name][row] for name in (ARGMAX, PEAK, DRAWN, DRAWN_LOGIT))
        # How Eigen groups a sum depends on where the row lies.
        assert alone[LOG_SUM][0] == pytest.approx(together[LOG_SUM][row], abs=2e-6)


@pytest.mark.parametrize("spoiled", [np.nan, np.inf])
def test_what_is_no_number_is_seen(choose: Choose, spoiled: float) -> None:
    logits = logits_of(5, 2, 300)
    logits[0, 17] = spoiled
    found = choose(logits)
    assert not np.isfinite(found[LOG_SUM][0])
    assert np.isfinite(found[LOG_SUM][1])


@pytest.mark.parametrize("model", [graph_of(600), draw_graph(600)])
def test_every_operator_has_a_cuda_kernel_of_its_version(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model)
    assert without_cuda_kernel(model) == set()
