"""What decode steps and prompts ask of a GPU: CUDA graphs, kernels, copies, and where they wait."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.session import LmSession
from tests.cuda.conftest import CHUNK, SLOTS
from tests.cuda.standin import StandIn, Trace
from tests.cuda.steps import DRAWN, GREEDY, decode, prefill

pytestmark = pytest.mark.cuda

LAYERS = 12
MOST_NODES = 275  # of a CUDA graph: the layers and the choice of the token
BATCHES = [[parameters] * rows for parameters in (GREEDY, DRAWN) for rows in (1, 2, SLOTS)]
NAMES = [f"{'greedy' if batch[0] is GREEDY else 'drawn'}-{len(batch)}" for batch in BATCHES]
Parameters = list[dict[str, Any]]
each_batch = pytest.mark.parametrize("batch", BATCHES, ids=NAMES)


def steps(session: LmSession, standin: StandIn, batch: Parameters) -> Trace:
    standin.take()
    session.decode(decode(*batch))
    return standin.take()


@pytest.fixture(scope="module")
def captures(session: LmSession, standin: StandIn) -> dict[str, Trace]:
    """What the CUDA graph of each batch holds."""
    return {name: steps(session, standin, batch).captured for name, batch in zip(NAMES, BATCHES, strict=True)}


@each_batch
def test_a_step_is_one_launch_between_two_copies(
    session: LmSession, standin: StandIn, captures: dict[str, Trace], batch: Parameters
) -> None:
    assert steps(session, standin, batch).counts == {"graph": 1, "copy": 2, "wait": 2}


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_waits_for_nothing_and_stays_on_the_gpu(captures: dict[str, Trace], name: str) -> None:
    graph = captures[name]
    assert set(graph.counts) == {"kernel", "product", "fill", "copy"}
    assert not graph.of("copy", "host")
    assert graph.num_nodes <= MOST_NODES


@pytest.mark.parametrize("name", NAMES)
def test_attention_is_the_kernel_for_single_tokens(captures: dict[str, Trace], name: str) -> None:
    """XQA, which reads each row's length on the GPU."""
    kernels = captures[name].of("kernel")
    assert len(kernels.of("kernel", "grp1_fp1610kernel_mha")) == LAYERS
    assert not kernels.of("kernel", "flash")


@pytest.mark.parametrize(("start", "rest"), [(0, CHUNK), (0, 0), (CHUNK, 0)])
def test_a_prompt_is_copied_once_and_its_logits_once(
    session: LmSession, standin: StandIn, start: int, rest: int
) -> None:
    standin.take()
    session.run(prefill(CHUNK, start, rest))
    trace = standin.take()
    assert len(trace.of("copy", "host-device")) == 1
    # Of one token's logits: the whole row, the first of the largest, and the logarithm of the sum.
    sizes = [int(event.detail.split()[-1]) for event in trace.of("copy", "device-host")]
    assert sizes == ([] if rest else [4 * 50257, 8, 4])
    assert trace.counts["wait"] == 2
