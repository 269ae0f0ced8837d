"""`python -m bench gpu` on the stand-in: all but what needs numbers, torch on a GPU, or true times."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.gpu.ceilings import Sizes, ceilings
from bench.gpu.runner import Line, run_steps
from bench.gpu.steps import WORKS, Plan, all_steps
from bench.gpu.timings import Timings, Variation
from runtime.cuda.accelerator import Accelerator
from tests.cuda.conftest import CONTEXT
from tests.cuda.standin import StandIn, Trace

pytestmark = pytest.mark.cuda

LAYERS = 12
XQA, FLASH = "grp1_fp1610kernel_mha", "flash_fwd"
SMALL = Sizes(
    nodes=9,
    products=5,
    hidden=64,
    inner=96,
    vocabularies=(257, 320),
    columns=256,
    rows=64,
    launches=3,
    rounds=2,
)


def test_ceilings_are_graphs_of_what_they_say(standin: StandIn) -> None:
    standin.take()
    found = [line["ceiling"] for line in ceilings(Accelerator(), SMALL)]
    trace = standin.take()
    assert found == [
        "a node that waits for another",
        "a product of 1 x 64 x 96",
        "a head of 257 tokens",
        "a head of 320 tokens",
        "reading, by one large product",
        "8 bytes to the GPU and back",
    ]
    assert [graph.counts for graph in trace.captures] == [
        {"kernel": SMALL.nodes},
        {"product": SMALL.products},
        *[{"product": 1}] * 3,
    ]


def variation(name: str) -> Variation:
    """That of a step, without its variables."""
    return WORKS[name].run.keywords["accelerator"]  # type: ignore[attr-defined, no-any-return]


def captures(graph: Path, standin: StandIn, accelerator: Accelerator) -> tuple[list[Trace], list[Line]]:
    standin.take()
    timings = Timings(graph, accelerator, 2, CONTEXT)
    trace = standin.take()
    return trace.captures, [*timings.steps((1, 2), 3), *timings.prompts((9,), 2)]


def test_steps_and_prompts_are_timed(standin: StandIn, write_fp16: Callable[..., Path]) -> None:
    graphs, lines = captures(write_fp16(), standin, Accelerator())
    assert len(graphs[0].of("kernel", XQA)) == LAYERS
    assert [line.get("rows") for line in lines] == [1, 2, None]
    weights = lines[0]["bytes"] - 40 * 2 * LAYERS * 64 * 2
    assert lines[1]["bytes"] == weights + 2 * 40 * 2 * LAYERS * 64 * 2
    assert all(value > 0 for line in lines for value in line.values())


@pytest.mark.parametrize("name", ["without XQA", "Flash alone", "tuned GEMMs", "small-N GEMV"])
def test_a_variation_has_the_kernels_that_it_names(
    name: str, standin: StandIn, write_fp16: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in WORKS[name].environment.items():
        monkeypatch.setenv(variable, value)
    graphs, _ = captures(write_fp16(), standin, variation(name))
    counts = [(len(graph.of("kernel", XQA)), len(graph.of("kernel", FLASH)), graph) for graph in graphs]
    uses_xqa, uses_flash, step = next(
        found for found in counts if any(found[:2])
    )  # the first may tune products
    has_xqa = WORKS[name].environment.get("ORT_ENABLE_XQA") != "0"
    assert (uses_xqa == LAYERS, uses_flash >= LAYERS) == (has_xqa, not has_xqa)
    assert (step.counts["product"] == 4 * LAYERS + 1) == (name != "small-N GEMV")


def test_steps_run_as_processes(standin: StandIn, tmp_path: Path) -> None:
    libraries = {"LD_LIBRARY_PATH": str(standin.folder), "PYTHONPATH": os.getcwd()}
    plan = Plan(str(tmp_path), [1], [32], 8, 1)
    steps = [
        dataclasses.replace(one, environment=libraries)
        for one in all_steps(plan, ("facts", "checks", "steps"))
    ]
    lines = run_steps(steps, 60.0, lambda line: None)
    facts = {key: value for line in lines if line["step"] == "facts" for key, value in line.items()}
    assert facts["gpus"] == 1
    assert facts["driver_cuda"] == 13000
    assert str(standin.folder / "libcuda.so.1") in facts["libraries"]
    assert facts["bytes_per_second"] == pytest.approx(4917e9, rel=1e-3)
    assert facts["ended"] == "done"
    assert [line["reason"] for line in lines if line["step"] != "facts"] == [
        "it needs the step export",
        "it needs the step export",
    ]
