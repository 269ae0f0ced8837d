"""The steps of a first run on a GPU, in the order of their value; run as a program, this file runs one.

Correctness comes before speed: where the checks do not hold, no model is timed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from bench.checkpoints import write_checkpoint
from bench.gpu.ceilings import Sizes, ceilings
from bench.gpu.checks import check_engine
from bench.gpu.facts import facts
from bench.gpu.profile import profile
from bench.gpu.runner import FAILURE, Line, Step
from bench.gpu.speed import Case, Ours, Subject, measure
from bench.gpu.timings import LENGTH, PROMPTS, Timings, Variation
from bench.peers.material import PromptSource, as_texts, write_material
from export.checkpoint.folder import Checkpoint
from export.graph.build import write_graph
from runtime.contract import ENGINE_FILE, GRAPH_FILE, TOKENIZER_FILE, Device, Variant
from runtime.cuda.accelerator import Accelerator
from runtime.engine import Engine
from runtime.load import load_engine
from runtime.manifest import Manifest

CHECKED_LENGTHS = (1, 2, 7, 30, 32, 33, 129, 300, 512, 513, 700)  # tokens; a chunk of a prompt is 512
CHECKED_SLOTS = 16
COMPARED_SLOTS = 16  # of the variations
LARGE = "gpt2-xl"
LARGE_SLOTS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """What all steps of a run share; `work` is the folder of checkpoint and artifact."""

    work: str
    batches: Sequence[int]
    prompts: Sequence[int]  # tokens
    new_tokens: int
    rounds: int  # of the comparison with transformers

    @property
    def folder(self) -> Path:
        return Path(self.work)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"

    @property
    def graph(self) -> Path:
        return self.artifact / Manifest.load(self.artifact).variants[Variant.FP16].graph.path

    @property
    def source(self) -> PromptSource:
        return PromptSource(self.artifact / TOKENIZER_FILE)


@dataclass(frozen=True, slots=True)
class Work:
    seconds: float  # its limit
    run: Callable[[Plan], Iterator[Line]]
    needs: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    only_without: str = ""


def _ceilings(plan: Plan) -> Iterator[Line]:
    return ceilings(Accelerator(), Sizes())


def _facts(plan: Plan) -> Iterator[Line]:
    return facts()


def _export(plan: Plan) -> Iterator[Line]:
    """GPT-2's 124M shape with random weights."""
    write_material(plan.checkpoint)
    exporting = [sys.executable, "-m", "export", str(plan.checkpoint), str(plan.artifact), "--overwrite"]
    subprocess.run([*exporting, "--name", "gpt2", "--variants", "fp32,fp16"], check=True)
    yield {"bytes": {name.value: one.size for name, one in Manifest.load(plan.artifact).variants.items()}}


def _checks(plan: Plan) -> Iterator[Line]:
    texts = [
        as_texts(plan.artifact / TOKENIZER_FILE, plan.source.take(1, count))[0] for count in CHECKED_LENGTHS
    ]
    with (
        opened(plan.artifact, Device.CUDA, Variant.FP16, CHECKED_SLOTS) as cuda,
        opened(plan.artifact, Device.CPU, Variant.FP32, CHECKED_SLOTS) as cpu,
    ):
        yield from map(asdict, check_engine(cuda, cpu, texts))


def _timings(plan: Plan) -> Iterator[Line]:
    timings = Timings(plan.graph, Accelerator(), max(plan.batches))
    yield {"seconds_to_open": round(timings.seconds_to_open, 2)}
    yield from timings.steps(plan.batches, 100)
    yield from timings.prompts(PROMPTS, 9)


def _engine(plan: Plan) -> Iterator[Line]:
    """Beside transformers where it is installed and torch sees the GPU."""
    cases = [Case(batch, length) for length in plan.prompts for batch in plan.batches]
    with opened(plan.artifact, Device.CUDA, Variant.FP16, max(plan.batches)) as engine:
        subjects: list[Subject] = [Ours(engine, plan.artifact)]
        try:
            from bench.gpu.subjects import Transformers

            subjects.append(Transformers(plan.checkpoint))
        except Exception as error:  # it is absent, or torch is built without CUDA
            yield {"without": "transformers", "because": f"{type(error).__name__}: {error}"}
        yield from measure(subjects, cases, plan.source, plan.rounds, plan.new_tokens)


@contextmanager
def opened(artifact: Path, device: Device, variant: Variant, num_slots: int) -> Iterator[Engine]:
    """An engine as a deployment's file would make it."""
    settings = {"variant": variant.value, "device": device.value, "num_slots": num_slots}
    (artifact / ENGINE_FILE).write_text(json.dumps(settings))
    engine = load_engine(artifact)
    try:
        yield engine
    finally:
        engine.close()


def _profile(plan: Plan) -> Iterator[Line]:
    timings = Timings(plan.graph, Accelerator(), COMPARED_SLOTS)
    for rows in (1, COMPARED_SLOTS):
        yield from profile(timings, rows)


def _varied(plan: Plan, accelerator: Accelerator) -> Iterator[Line]:
    yield from Timings(plan.graph, accelerator, COMPARED_SLOTS).steps((1, COMPARED_SLOTS), 100)


def _graph_of_transformers(plan: Plan) -> Iterator[Line]:
    from bench.gpu.subjects import in_a_graph

    return in_a_graph(plan.checkpoint, 1, LENGTH, 256, 100)


def _large(plan: Plan) -> Iterator[Line]:
    """Its graph alone: an export would compare it with fp32, which takes minutes."""
    folder = plan.folder / LARGE
    try:
        write_checkpoint(LARGE, folder / "checkpoint")
        graph = folder / "fp16" / GRAPH_FILE
        graph.parent.mkdir(exist_ok=True)
        write_graph(Checkpoint.open(folder / "checkpoint"), Variant.FP16, graph)
        yield {"written": True}
        yield from Timings(graph, Accelerator(), LARGE_SLOTS).steps((1, LARGE_SLOTS), 50)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


RIGHT = ("export", "checks")
WITHOUT_XQA = {"ORT_ENABLE_XQA": "0"}
# In the order in which they run. Limits are far above what a step takes.
WORKS: Mapping[str, Work] = {
    "facts": Work(30, _facts),
    "ceilings": Work(60, _ceilings),
    "export": Work(200, _export),
    "checks": Work(150, _checks, ("export",)),
    # Is it the attention of steps that is wrong?
    "checks without XQA": Work(100, _checks, ("export",), WITHOUT_XQA, only_without="checks"),
    "steps": Work(60, _timings, RIGHT),
    "engine": Work(180, _engine, RIGHT),
    "profile": Work(60, _profile, RIGHT),
    "without XQA": Work(45, partial(_varied, accelerator=Variation()), RIGHT, WITHOUT_XQA),
    "Flash alone": Work(45, partial(_varied, accelerator=Variation({"sdpa_kernel": 1})), RIGHT, WITHOUT_XQA),
    "tuned GEMMs": Work(
        60, partial(_varied, accelerator=Variation(entries={"ep.cuda.enable_gemm_auto_tune": "1"})), RIGHT
    ),
    "small-N GEMV": Work(
        45, partial(_varied, accelerator=Variation()), RIGHT, {"ORT_ENABLE_SMALL_N_GEMV": "1"}
    ),
    "CUDA graph of transformers": Work(100, _graph_of_transformers, ("export",)),
    LARGE: Work(200, _large, RIGHT),
}
ONLY_CHECKS = ("facts", "export", "checks", "checks without XQA")


def all_steps(plan: Plan, names: Sequence[str]) -> list[Step]:
    """Those with these names, each a process."""
    command = [sys.executable, "-m", "bench.gpu.steps"]
    text = json.dumps(asdict(plan))
    return [
        Step(name, work.seconds, [*command, name, text], work.environment, work.needs, work.only_without)
        for name, work in WORKS.items()
        if name in names
    ]


def main(name: str, plan: Plan) -> None:
    """Run one step here."""
    # Libraries print to stdout: it becomes stderr, and the lines get another descriptor.
    with os.fdopen(os.dup(1), "w", buffering=1) as lines:
        os.dup2(2, 1)
        try:
            Accelerator().check()
            for line in WORKS[name].run(plan):
                print(json.dumps(line), file=lines)
        except Exception as error:  # whatever a library raises is the result of this step
            first, *_ = str(error).splitlines() or [""]
            print(json.dumps({FAILURE: f"{type(error).__name__}: {first[:300]}"}), file=lines)
            raise


if __name__ == "__main__":
    main(sys.argv[1], Plan(**json.loads(sys.argv[2])))
