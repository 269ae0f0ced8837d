"""What decode steps and prompts ask of a GPU: CUDA graphs, kernels, copies, and where they wait."""

from __future__ import annotations

from typing import Any

import pytest

from bench.gpu.batches import DRAWN, GREEDY, LISTED, NUCLEUS, decode, prefill
from runtime.contract import Operation
from runtime.session import LmSession
from tests.cuda.conftest import CHUNK, SLOTS
from tests.cuda.standin import StandIn, Trace

pytestmark = pytest.mark.cuda

LAYERS = 12
VOCAB = 50257
ROW = f"async device-host {4 * VOCAB} "
# Nodes of a CUDA graph, and of one that draws, at most. bench/LOG.md has what they were before.
MOST_STEP, MOST_DRAW = 220, 60
STEP = {"graph": 1, "copy": 2, "wait": 1}


@pytest.fixture(scope="module")
def captures(session: LmSession, standin: StandIn) -> list[Trace]:
    """What the CUDA graphs of the session hold: those of steps and draws, then those of prompts."""
    standin.take()
    session.capture()
    return standin.take().captures


def steps(session: LmSession, standin: StandIn, *parameters: dict[str, Any]) -> Trace:
    standin.take()
    session.decode(decode(*parameters))
    return standin.take()


def test_a_graph_waits_for_nothing_and_stays_on_the_gpu(captures: list[Trace]) -> None:
    assert len(captures) == 2 * 4 + 2 * 2  # 1, 2, 4 and 8 slots; 32 and 64 tokens
    for graph in captures:
        assert set(graph.counts) <= {"kernel", "product", "fill", "copy"}
        assert not graph.of("copy", "host")


def test_a_step_has_no_more_nodes_than_it_needs(captures: list[Trace]) -> None:
    for step, draw in zip(captures[:8:2], captures[1:8:2], strict=True):
        assert step.counts["product"] == 4 * LAYERS + 1
        assert not step.of("kernel", "CumSum")
        assert step.num_nodes <= MOST_STEP
        assert not draw.of("product")
        assert draw.num_nodes <= MOST_DRAW


def test_attention_is_the_kernel_for_single_tokens(captures: list[Trace]) -> None:
    """XQA, which reads each row's length on the GPU."""
    for graph in captures[:8:2]:
        assert len(graph.of("kernel", "grp1_fp1610kernel_mha")) == LAYERS
        assert not graph.of("kernel", "flash")


def test_attention_over_prompts_is_flash(captures: list[Trace]) -> None:
    """cuDNN would make a plan for each length, and the memory-efficient kernel takes longer."""
    for graph in captures[8:]:
        assert len(graph.of("kernel", "flash_fwd")) == LAYERS
        assert graph.counts["product"] == 4 * LAYERS + 1


@pytest.mark.parametrize("rows", [1, 2, 3, SLOTS])
def test_a_step_is_one_launch_between_two_copies(
    session: LmSession, standin: StandIn, captures: list[Trace], rows: int
) -> None:
    assert steps(session, standin, *[GREEDY] * rows).counts == STEP
    drawn = steps(session, standin, *[DRAWN] * rows)
    assert drawn.counts == STEP | {"graph": 2}
    assert len({event.detail.rpartition(" on ")[2] for event in drawn}) == 1  # all in one stream


@pytest.mark.parametrize("needy", [NUCLEUS, LISTED, DRAWN | {"repetition_penalty": 1.2}])
def test_a_row_that_the_host_chooses_takes_no_other_off_the_gpu(
    session: LmSession, standin: StandIn, captures: list[Trace], needy: dict[str, Any]
) -> None:
    trace = steps(session, standin, GREEDY, needy, GREEDY)
    assert trace.counts == STEP | {"copy": 3}
    assert len(trace.of("copy", ROW)) == 1


@pytest.mark.parametrize(("start", "rest"), [(0, CHUNK), (0, 0), (CHUNK, 0)])
@pytest.mark.parametrize("count", [CHUNK, CHUNK - 9, 3])
def test_a_chunk_of_a_prompt_is_one_launch_too(
    session: LmSession, standin: StandIn, captures: list[Trace], count: int, start: int, rest: int
) -> None:
    standin.take()
    session.run(prefill(count, start, rest))
    trace = standin.take()
    assert trace.counts == STEP | {"copy": 2 + (rest == 0)}
    assert len(trace.of("copy", ROW)) == (rest == 0)


def test_another_slot_s_prompts_are_captured_when_they_come(
    session: LmSession, standin: StandIn, captures: list[Trace]
) -> None:
    batch = prefill(CHUNK)
    batch.chunks[0].sequence.slot = 1
    for graphs in (2, 1):  # recorded and launched, then launched
        standin.take()
        session.run(batch)
        assert standin.take().counts["graph"] == graphs


def test_hidden_states_come_to_the_host_without_a_graph(session: LmSession, standin: StandIn) -> None:
    batch = prefill(5)
    batch.chunks[0].sequence.operation = Operation.EMBED
    standin.take()
    assert session.run(batch).shape == (1, 64)
    trace = standin.take()
    assert not trace.of("graph")
    assert len(trace.of("copy", "device-host 256 ")) == 1


def test_the_cache_takes_what_it_needs_and_rows_are_copied_within_the_gpu(
    session: LmSession, standin: StandIn
) -> None:
    memory = session._cache.memory
    assert memory.size == 2 * LAYERS * SLOTS * 256 * 64 * 2
    standin.take()
    memory.copy_rows(0, 1, 10)
    trace = standin.take()
    assert trace.counts == {"copy": 2 * LAYERS}
    assert len(trace.of("copy", "async device-device 1280 ")) == 2 * LAYERS
