"""A plan of TensorRT behind the engine: a stand-in for TensorRT computes it on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.gpu.stand import HostStream
from runtime.contract import GRAPH_FILE, LmGraph, Operation, Variant
from runtime.cuda.captured import run_options
from runtime.cuda.plan import PlanError
from runtime.cuda.plan_session import PlanSession
from runtime.cuda.stream import Buffer
from runtime.engine import Engine
from tests.runtime.cuda import tensorrt
from tests.runtime.cuda.accelerated import accelerated_engine
from tests.runtime.engines import ask, token_ids

TEXTS = ("the cat", "a dog and the cat ran", "rain on the roof all night")
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
SAMPLED: dict[str, Any] = {"temperature": 0.8, "seed": 7, "max_tokens": 12, "ignore_eos": True}


class Device(HostStream):
    """Memory that is not the host's, by its name."""

    device = "device"

    def __init__(self) -> None:
        self.waits = 0

    def wait(self) -> None:
        self.waits += 1


@pytest.fixture(scope="module")
def plan(lm_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("plan") / "plan"
    path.write_text(str(lm_artifact / Variant.FP32.value / GRAPH_FILE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", tensorrt)
        yield path


@pytest.fixture(scope="module")
def planned(lm_artifact: Path, plan: Path) -> Iterator[Engine]:
    session = PlanSession(plan, HostStream())
    opened = accelerated_engine(
        lm_artifact, plan=session, num_slots=tensorrt.SLOTS, prefill_chunk=tensorrt.CHUNK
    )
    yield opened
    opened.close()


@pytest.mark.parametrize(
    "parameters",
    [GREEDY, SAMPLED, SAMPLED | {"top_p": 0.7}, SAMPLED | {"best_of": 3, "top_k": 5}],
)
def test_answers_are_those_of_the_cpu(planned: Engine, engine: Engine, parameters: dict[str, Any]) -> None:
    expected = [token_ids(engine, text, **parameters) for text in TEXTS]
    assert [token_ids(planned, text, **parameters) for text in TEXTS] == expected


def test_embeddings_are_those_of_the_cpu(planned: Engine, engine: Engine) -> None:
    found = ask(planned, "the cat ran", Operation.EMBED)["embedding"]
    assert found == pytest.approx(ask(engine, "the cat ran", Operation.EMBED)["embedding"], abs=1e-4)


def test_what_the_host_wants_is_copied_and_waited_for(plan: Path) -> None:
    stream = Device()
    session = PlanSession(plan, stream)
    shapes = {LmGraph.INPUT_IDS: (1, 2), LmGraph.POSITION_IDS: (1, 2), LmGraph.LOGIT_ROWS: (2,)}
    binding = session.io_binding()
    buffers: list[Buffer] = []
    for tensor in session.get_inputs():
        shape = shapes.get(tensor.name, (1, *tensor.shape[1:]))
        values = np.full(shape, int(tensor.name == LmGraph.SEQLENS_K), tensor.dtype)
        buffer = stream.allocate(values.nbytes)
        buffers.append(buffer)
        stream.push(buffer.address, values.ctypes.data, values.nbytes)
        binding.bind_input(tensor.name, "device", 0, tensor.dtype.type, shape, buffer.address)
        if tensor.name.startswith("past_"):
            present = tensor.name.replace("past", "present")
            binding.bind_output(present, "device", 0, tensor.dtype.type, shape, buffer.address)
    width = next(tensor.shape[1] for tensor in session.get_outputs() if tensor.name == LmGraph.LOGITS)
    logits = np.zeros((2, width), np.float32)
    binding.bind_output(LmGraph.LOGITS, "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
    session.run_with_iobinding(binding, run_options(-1))
    assert stream.waits == 1
    assert logits[0].any()
    assert logits[0].tolist() == logits[1].tolist()  # twice the first row
    session.run_with_iobinding(binding, run_options(1))
    assert stream.waits == 1  # as with a captured run, the caller waits


def test_an_address_that_is_not_aligned_is_refused(plan: Path) -> None:
    session = PlanSession(plan, HostStream())
    binding = session.io_binding()
    binding.bind_input(LmGraph.INPUT_IDS, "cpu", 0, np.int64, (1, 1), 1024)
    binding.bind_input(LmGraph.LOGIT_ROWS, "cpu", 0, np.int64, (1,), 1024 + 8)
    with pytest.raises(PlanError, match="logit_rows does not lie on a multiple of 256 bytes"):
        session.run_with_iobinding(binding, run_options(-1))


def test_more_tokens_than_the_plan_takes_are_refused(plan: Path) -> None:
    session = PlanSession(plan, HostStream())
    binding = session.io_binding()
    ids = np.zeros((1, tensorrt.CHUNK + 1), np.int64)
    binding.bind_input(LmGraph.INPUT_IDS, "cpu", 0, np.int64, ids.shape, ids.ctypes.data)
    binding.bind_input(LmGraph.LOGIT_ROWS, "cpu", 0, np.int64, (1,), ids.ctypes.data)
    with pytest.raises(PlanError, match=r"refuses input_ids of \(1, 65\)"):
        session.run_with_iobinding(binding, run_options(-1))


def test_a_plan_that_tensorrt_does_not_open_is_an_error(plan: Path) -> None:
    broken = plan.with_name("broken")
    broken.write_text("/no/graph")
    with pytest.raises(PlanError, match="cannot open the plan"):
        PlanSession(broken, HostStream())
