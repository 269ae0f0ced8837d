"""The first run on a machine with a GPU: whether the CUDA engine is right, how quick it is, and why.

Steps run in the order of their value, each as a process with a limit, and all within `--minutes`: facts, what
the GPU can do at most, an export of GPT-2's 124M shape with random weights, checks against fp32 on the CPU,
decode steps and prompts, the engine beside transformers, kernels, variations, gpt2-xl. Without the checks
nothing is timed. Results come as JSON lines in bench/results/gpu.jsonl, then as a report beside it. It needs
`onnxruntime-gpu` (the extra `gpu`); torch that sees the GPU and transformers for a part of the steps.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench import report
from bench.gpu.report import report_of
from bench.gpu.runner import Ended, Line, run_steps
from bench.gpu.steps import ONLY_CHECKS, WORKS, Plan, all_steps
from perf.counts import parse_counts
from perf.errors import PerfError
from runtime.cuda.accelerator import Accelerator, AcceleratorError

FOLDER = Path(__file__).resolve().parents[2] / "var" / "perf-gpu"


def gpu(
    minutes: Annotated[float, typer.Option(min=0.5, help="For all steps; none begins later.")] = 10.0,
    batches: Annotated[str, typer.Option(help="Sequences at once.")] = "1,4,16,64",
    prompts: Annotated[str, typer.Option(help="Tokens of a prompt.")] = "32",
    new_tokens: Annotated[int, typer.Option(min=2)] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Beside transformers.")] = 3,
    only_checks: Annotated[bool, typer.Option("--only-checks", help="Do not measure.")] = False,
) -> None:
    sizes, lengths = parse_counts("--batches", batches), parse_counts("--prompts", prompts)
    require_gpu()
    plan = Plan(str(FOLDER), sizes, lengths, new_tokens, rounds)
    lines = run(plan, ONLY_CHECKS if only_checks else tuple(WORKS), 60 * minutes)
    well = (None, Ended.DONE.value, Ended.NOT_NEEDED.value)
    if wrong := [line for line in lines if line.get("ended") not in well]:
        raise PerfError(f"{', '.join(line['step'] for line in wrong)}: not done, the report says why")


def run(plan: Plan, names: tuple[str, ...], budget: float) -> list[Line]:
    """Run the steps with these names, and write lines and report; `budget` is in seconds."""
    report.RESULTS.mkdir(exist_ok=True)
    with (report.RESULTS / "gpu.jsonl").open("w", encoding="utf-8") as file:

        def write(line: Line) -> None:
            text = json.dumps(line)
            print(text, file=sys.stderr, flush=True)
            print(text, file=file, flush=True)

        lines = run_steps(all_steps(plan, names), budget, write)
    report.write("gpu", report_of(lines), {"lines": lines})
    return lines


def require_gpu() -> None:
    """Raises PerfError, in one line."""
    try:
        Accelerator().check()
    except AcceleratorError as error:
        raise PerfError(f"no GPU to measure on: {error}") from None
