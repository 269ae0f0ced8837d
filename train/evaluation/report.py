"""What was found, as JSON, as Markdown, and as the rows of tables for a terminal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.evaluation.bootstrap import Figure, Resampling
from train.evaluation.classes import NUM_BINS
from train.evaluation.comparison import Difference
from train.evaluation.evaluate import Evaluation
from train.evaluation.measured import ClassFigures, Measured
from train.evaluation.speed import Speed

NOT_KNOWN = "not known"
FORMAT = 1  # of the JSON
MOST_CONFUSED = 12  # pairs of classes in Markdown, where the whole matrix is too wide
WIDEST_MATRIX = 12  # classes

Table = tuple[Sequence[str], list[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Report:
    """One target, or two and their differences."""

    data: str  # the file
    rows: int  # in it
    resampling: Resampling
    evaluations: Sequence[Evaluation]
    differences: Sequence[Difference] = ()

    def to_json(self) -> dict[str, Any]:
        """Numbers that are not known, or are no numbers, are null."""
        value = {
            "format": FORMAT,
            "data": {"file": self.data, "rows": self.rows},
            "method": {"interval": 0.95, **dataclasses.asdict(self.resampling), "calibration_bins": NUM_BINS},
            "evaluations": [_evaluation_json(each) for each in self.evaluations],
            "differences": [dataclasses.asdict(each) for each in self.differences],
        }
        return _finite(value)  # type: ignore[no-any-return]

    def to_markdown(self) -> str:
        parts = [f"# Evaluation on {self.data}", f"{self.rows} rows. {self.method}"]
        for each in self.evaluations:
            parts += [f"## {each.about.name}", about_line(each), _markdown(figure_table(each))]
            parts += [f"{title}\n\n{_markdown(table)}" for title, table in detail_tables(each.measured)]
            parts += ["Speed:", _markdown(speed_table(each.speed))]
        if self.differences:
            parts += [
                "## Differences, the second less the first",
                _markdown(difference_table(self.differences)),
            ]
        return "\n\n".join(parts) + "\n"

    @property
    def method(self) -> str:
        if not self.resampling.resamples:
            return "No intervals were asked for."
        return (
            f"Intervals: 95 %, bootstrap over rows, {self.resampling.resamples} resamples, "
            f"seed {self.resampling.seed}."
        )


def about_line(found: Evaluation) -> str:
    """What the target is, in one sentence."""
    about = found.about
    parts = [f"{about.place} of kind {about.kind.value}"]
    if about.precision:
        parts.append(about.precision)
    parts.append("size " + (NOT_KNOWN if about.size is None else f"{about.size / 1e6:.1f} MB"))
    if found.window is not None:
        parts.append(f"windows of {found.window} tokens that overlap by half")
    parts += [f"{count:,} {name}" for name, count in found.measured.counts.items() if count]
    if about.method:
        parts.append(about.method)
    return "; ".join(parts) + "."


def figure_table(found: Evaluation) -> Table:
    rows = [(name, number(figure.value), interval(figure)) for name, figure in found.figures.items()]
    return ("figure", "value", "95 % interval"), list(rows)


def detail_tables(measured: Measured) -> list[tuple[str, Table]]:
    """By class, by slot, and what is taken for what."""
    tables = []
    if measured.classes:
        tables.append(("By class:", class_table("class", measured.classes)))
    if measured.slots:
        tables.append(("By slot:", class_table("slot", measured.slots)))
    if measured.confusion is not None:
        tables.append(("Confusion matrix (a row is what was expected):", _confusion_table(measured)))
    return tables


def class_table(what: str, classes: Sequence[ClassFigures]) -> Table:
    with_area = any(each.roc_auc is not None for each in classes)
    columns = (what, "precision", "recall", "F1", *(["ROC AUC"] if with_area else []), "support")
    rows: list[Sequence[str]] = []
    for each in classes:
        area = [NOT_KNOWN if each.roc_auc is None else number(each.roc_auc)] if with_area else []
        values = (number(each.precision), number(each.recall), number(each.f1))
        rows.append((each.label, *values, *area, str(each.support)))
    return columns, rows


def _confusion_table(measured: Measured) -> Table:
    """The matrix, or of a large one the pairs that are confused most."""
    counts, labels = measured.confusion, measured.confusion_labels
    assert counts is not None
    if len(labels) <= WIDEST_MATRIX:
        return ("", *labels), [(label, *map(str, row)) for label, row in zip(labels, counts, strict=True)]
    pairs = [
        (int(counts[row, column]), labels[row], labels[column])
        for row in range(len(labels))
        for column in range(len(labels))
        if row != column and counts[row, column]
    ]
    most = sorted(pairs, key=lambda pair: -pair[0])[:MOST_CONFUSED]
    return ("expected", "found", "rows"), [(expected, found, str(count)) for count, expected, found in most]


def speed_table(speed: Speed) -> Table:
    latency = speed.latency
    rows: list[Sequence[str]] = [("unit", speed.unit)]
    if latency is not None:
        times = f"p50 {_ms(latency.p50)}, p95 {_ms(latency.p95)}, p99 {_ms(latency.p99)}"
        rows.append((f"latency, one request at a time ({latency.count})", times))
    rows += [
        ("throughput, in batches", _known(speed.throughput, "{:,.1f} a second")),
        ("processor, in batches", _known(speed.cpu_cores, "{:.2f} cores")),
        ("memory", NOT_KNOWN if speed.memory is None else f"{speed.memory / 1e6:.0f} MB"),
    ]
    return ("speed", ""), rows


def difference_table(differences: Sequence[Difference]) -> Table:
    rows = [
        (
            each.name,
            number(each.first),
            number(each.second),
            f"{each.difference.value:+.2g}",
            " to ".join(f"{value:+.2g}" for value in each.difference.interval or ()),
            NOT_KNOWN if each.p_value is None else f"{each.p_value:.3g}",
            each.test,
        )
        for each in differences
    ]
    return ("figure", "first", "second", "difference", "95 % interval", "p", "test"), list(rows)


def number(value: float) -> str:
    if not math.isfinite(value):
        return NOT_KNOWN
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}"


def interval(figure: Figure) -> str:
    return "" if figure.interval is None else " to ".join(map(number, figure.interval))


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def _known(value: float | None, form: str) -> str:
    return NOT_KNOWN if value is None else form.format(value)


def _markdown(table: Table) -> str:
    columns, rows = table
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _evaluation_json(found: Evaluation) -> dict[str, Any]:
    measured = found.measured
    confusion = measured.confusion
    return {
        "target": dataclasses.asdict(found.about),
        "window": found.window,
        "counts": dict(measured.counts),
        "figures": {name: dataclasses.asdict(figure) for name, figure in found.figures.items()},
        "classes": [dataclasses.asdict(each) for each in measured.classes],
        "slots": [dataclasses.asdict(each) for each in measured.slots],
        "confusion_matrix": None
        if confusion is None
        else {"labels": list(measured.confusion_labels), "counts": confusion.tolist()},
        "calibration_bins": [dataclasses.asdict(each) for each in measured.bins],
        "speed": dataclasses.asdict(found.speed),
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
