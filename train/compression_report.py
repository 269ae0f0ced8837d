"""Models before and after compression: size, quality with intervals, and speed through the engine."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from export.checkpoint.config import read_config
from export.inspection.checkpoint import ModelFacts
from export.pipeline import export_checkpoint
from kernels.processors import usable_cores
from runtime.contract import Variant
from train.evaluation.bootstrap import Figure, Resampling
from train.evaluation.evaluate import Evaluation, Settings, evaluate
from train.evaluation.places import Options, open_target
from train.options import Options as TrainOptions

PRECISIONS = (Variant.FP32, Variant.INT8)
ROUNDS = 3  # a speed is the best of this many; other work on the machine only takes from it
RESAMPLES = 1000  # of the intervals


@dataclass(frozen=True)
class Column:
    """One model. Its evaluations are of its export, run by the engine in this process."""

    name: str
    parameters: int
    size: int  # bytes of the checkpoint's weights
    sizes: dict[Variant, int]  # bytes of each precision's export
    evaluations: dict[Variant, list[Evaluation]]  # ROUNDS of the same; only times differ


def measure(folders: Sequence[tuple[str, Path]], rows: Sequence[Any], threads: int) -> list[Column]:
    """Measure models by their names and checkpoint folders on the same rows, in turns."""
    with TemporaryDirectory(prefix="lmaas-compress-") as scratch:
        artifacts = []
        for number, (_, folder) in enumerate(folders):
            artifacts.append(Path(scratch) / str(number))
            export_checkpoint(folder, artifacts[-1], name="measured", variants=PRECISIONS)
        found: list[dict[Variant, list[Evaluation]]] = [{p: [] for p in PRECISIONS} for _ in folders]
        for number in range(ROUNDS):
            # Answers are the same in each round: intervals are made once.
            settings = Settings(Resampling(0 if number else RESAMPLES))
            for precision in PRECISIONS:
                for artifact, evaluations in zip(artifacts, found, strict=True):
                    with open_target(
                        str(artifact), Options(precision=precision.value, threads=threads)
                    ) as target:
                        evaluations[precision].append(evaluate(target, rows, settings))
    return [
        _column(name, folder, evaluations) for (name, folder), evaluations in zip(folders, found, strict=True)
    ]


def _column(name: str, folder: Path, evaluations: dict[Variant, list[Evaluation]]) -> Column:
    return Column(
        name,
        ModelFacts.of(read_config(folder)).parameters,
        sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        {precision: found[0].about.size or 0 for precision, found in evaluations.items()},
        evaluations,
    )


def report(models: Sequence[tuple[str, Path]], rows: Sequence[Any], options: TrainOptions) -> str:
    """Measure models by their names and folders, and write the table into the card of the last too."""
    columns = measure(models, rows, options.threads or usable_cores())
    table = markdown(columns, len(rows))
    card = models[-1][1] / "README.md"
    card.write_text(f"{card.read_text('utf-8')}\n## Before and after\n\n{table}", "utf-8")
    return table


def markdown(columns: Sequence[Column], rows: int) -> str:
    """A table with a column for each model; the change is that of the last from the first."""
    lines = [
        f"Measured on {rows:,} rows through the engine in this process, on {_processor()}; in brackets 95 %"
        " intervals (bootstrap over rows).",
        "",
        f"| | {' | '.join(column.name for column in columns)} | change |",
        f"| --- |{' --- |' * (len(columns) + 1)}",
        _line("parameters", [column.parameters for column in columns], "{:,.0f}"),
        _line("checkpoint, MB", [column.size / 1e6 for column in columns], "{:.2f}"),
    ]
    for precision in PRECISIONS:
        sizes = [column.sizes[precision] / 1e6 for column in columns]
        lines.append(_line(f"{precision.value} export, MB", sizes, "{:.2f}"))
    for precision in PRECISIONS:
        lines += _quality(precision, columns)
    for precision in PRECISIONS:
        lines += _speeds(precision, columns)
    return "\n".join(lines) + "\n"


def _processor() -> str:
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M)
    return model.group(1) if model else platform.machine()


def _quality(precision: Variant, columns: Sequence[Column]) -> list[str]:
    firsts = [column.evaluations[precision][0].figures for column in columns]
    names = [name for name, figure in firsts[0].items() if figure.interval is not None]
    return [
        f"| {precision.value}, {name} | {' | '.join(_shown(each[name]) for each in firsts)}"
        f" | {firsts[-1][name].value - firsts[0][name].value:+.4g} |"
        for name in names
    ]


def _speeds(precision: Variant, columns: Sequence[Column]) -> list[str]:
    speeds = [[each.speed for each in column.evaluations[precision]] for column in columns]
    unit = speeds[0][0].unit.partition(";")[0]
    rates = [max(speed.throughput or 0.0 for speed in found) for found in speeds]
    times = [min(speed.latency.p50 for speed in found if speed.latency) * 1e3 for found in speeds]
    # Unlike seconds, these do not depend on what else the machine does.
    costs = [
        min((speed.cpu_cores or 0.0) / (speed.throughput or 1.0) for speed in found) * 1e6 for found in speeds
    ]
    return [
        _line(f"{precision.value}, {unit}s a second in batches", rates, "{:,.0f}"),
        _line(f"{precision.value}, processor time of a {unit}, us", costs, "{:,.0f}"),
        _line(f"{precision.value}, one request, ms (p50)", times, "{:.2f}"),
    ]


def _line(what: str, values: Sequence[float], form: str) -> str:
    change = f"{values[-1] / values[0] - 1:+.1%}" if values[0] else "-"
    return f"| {what} | {' | '.join(form.format(value) for value in values)} | {change} |"


def _shown(figure: Figure) -> str:
    if figure.interval is None:
        return f"{figure.value:.4g}"
    low, high = figure.interval
    return f"{figure.value:.4g} [{low:.4g}, {high:.4g}]"
