"""`python -m bench compare`: its options, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench import report
from bench.compare.measurement import Comparison
from bench.compare.pairs import Verdict, as_data, describe
from bench.compare.sides import Side, check_alike
from bench.peers.catalogue import CHECKPOINT
from bench.peers.material import write_material
from perf.counts import parse_counts
from perf.errors import PerfError
from perf.http.load import Extent
from perf.http.plan import parse_choice
from runtime.contract import Variant

Folder = Annotated[Path, typer.Argument(help="A folder with a checkout.", show_default=False)]
Batches = Annotated[str, typer.Option(help="Sequences at once in process; '' leaves that part out.")]
Streams = Annotated[str, typer.Option(help="Streams at once over HTTP; '' leaves that part out.")]
PromptTokens = Annotated[int, typer.Option(help="Tokens of a prompt in process.", min=1)]
PromptWords = Annotated[int, typer.Option(help="Words of a prompt over HTTP.", min=1)]
MaxTokens = Annotated[int, typer.Option(help="New tokens of every request.", min=1)]
Rounds = Annotated[int, typer.Option(help="Of each measurement, after one that warms up.", min=1)]
Seconds = Annotated[float, typer.Option(help="Measured over HTTP in a round.", min=0.1)]
Warmup = Annotated[float, typer.Option(help="Seconds of load before those measured.", min=0)]
Precision = Annotated[str, typer.Option(help="fp32, fp16, int8 or int4.")]
Threads = Annotated[int, typer.Option(help="Of the engine in process.", min=1)]
Tolerance = Annotated[float, typer.Option(help="Per cent by which a median may be worse.", min=0, max=100)]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="The folder of a language model; without it, GPT-2's 124M shape with random weights.",
        exists=True,
        file_okay=False,
        resolve_path=True,  # the sides run in other folders
    ),
]
Name = Annotated[str, typer.Option(help="Of the report's files in bench/results.")]


def compare(
    old: Folder,
    new: Folder,
    batches: Batches = "1,16",
    streams: Streams = "1,16,64",
    prompt_tokens: PromptTokens = 32,
    prompt_words: PromptWords = 24,
    max_tokens: MaxTokens = 64,
    rounds: Rounds = 5,
    seconds: Seconds = 8.0,
    warmup: Warmup = 2.0,
    precision: Precision = "int8",
    threads: Threads = 2,
    tolerance: Tolerance = 3.0,
    checkpoint: Checkpoint = None,
    name: Name = "compare",
) -> None:
    comparison = Comparison(
        old=Side.of("old", old),
        new=Side.of("new", new),
        checkpoint=checkpoint or CHECKPOINT,
        variant=parse_choice("--precision", Variant, precision),
        batches=_counts("--batches", batches),
        streams=_counts("--streams", streams),
        prompt_tokens=prompt_tokens,
        prompt_words=prompt_words,
        max_tokens=max_tokens,
        threads=threads,
        extent=Extent(warmup, seconds),
        rounds=rounds,
    )
    check_alike(comparison.old, comparison.new)
    if checkpoint is None:
        write_material(CHECKPOINT)
    publish(name, comparison, tolerance / 100)


def publish(name: str, comparison: Comparison, tolerance: float) -> None:
    """Measure and write the report. Raises PerfError where a figure is worse by more than `tolerance`."""
    pairs = comparison.measure()
    sides = {side.name: side.commit or side.root.name for side in (comparison.old, comparison.new)}
    compared = ", ".join(f"{name}: {commit}" for name, commit in sides.items())
    text = f"{describe(pairs, tolerance)}\n{compared}. {comparison.conditions}\n"
    report.write(name, text, {"sides": sides, "tolerance": tolerance, "figures": as_data(pairs, tolerance)})
    if any(pair.verdict(tolerance) is Verdict.WORSE for pair in pairs):
        raise PerfError("NEW is worse than OLD by more than the tolerance")


def _counts(option: str, text: str) -> tuple[int, ...]:
    return tuple(parse_counts(option, text)) if text.strip() else ()
