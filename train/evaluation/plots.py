"""Pictures of an evaluation: confusion matrix, ROC curves, reliability diagram, latencies."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from train.evaluation.evaluate import Evaluation
from train.evaluation.measured import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CURVES = 8  # with a name each; of more classes, the worst ones are named
MOST_NUMBERED = 15  # classes whose counts are written into the matrix
MOST_NAMED = 40  # classes whose names fit beside it
BLUE, ORANGE, GREY = "#1f5fa8", "#c8501e", "#999999"


def draw_plots(found: Evaluation, folder: Path) -> list[Path]:
    """Write a PNG for each picture that the answers give. Raises ModuleNotFoundError without matplotlib."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", found.about.name).strip("-")[-60:]
    for kind, draw, size in _pictures(found):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_title(f"{found.about.name}", fontsize=10)
        written.append(folder / f"{name}-{kind}.png")
        figure.savefig(written[-1], dpi=120)
    return written


def _pictures(found: Evaluation) -> list[tuple[str, Callable[[Axes], None], tuple[float, float]]]:
    measured, latency = found.measured, found.speed.latency
    pictures: list[tuple[str, Callable[[Axes], None], tuple[float, float]]] = []
    if measured.confusion is not None:
        side = min(14.0, max(4.5, 0.34 * len(measured.confusion_labels) + 2))
        pictures.append(("confusion", lambda axes: _confusion(axes, measured), (side + 0.8, side)))
    if measured.curves:
        pictures.append(("roc", lambda axes: _roc(axes, measured), (6.0, 5.4)))
    if measured.bins:
        pictures.append(("reliability", lambda axes: _reliability(axes, measured), (6.0, 5.0)))
    if latency is not None:
        pictures.append(("latency", lambda axes: _latency(axes, found), (6.4, 4.2)))
    return pictures


def _confusion(axes: Axes, measured: Measured) -> None:
    """Shares of each expected class; the counts are in the cells of a small matrix."""
    from matplotlib.colors import PowerNorm

    counts, labels = measured.confusion, measured.confusion_labels
    assert counts is not None
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    # The root makes the few that are confused visible.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, label="share of the expected class", shrink=0.8)
    if len(labels) <= MOST_NAMED:
        axes.set_xticks(range(len(labels)), [_short(label) for label in labels], rotation=90, fontsize=8)
        axes.set_yticks(range(len(labels)), [_short(label) for label in labels], fontsize=8)
    if len(labels) <= MOST_NUMBERED:
        for row, column in np.ndindex(counts.shape):
            colour = "white" if shares[row, column] > 0.25 else "black"
            axes.text(
                column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8
            )
    axes.set_xlabel("found")
    axes.set_ylabel("expected")


def _roc(axes: Axes, measured: Measured) -> None:
    worst = sorted(measured.curves, key=lambda curve: curve.area)
    # Both classes of two have the same curve, mirrored: one is enough.
    named = worst[:1] if len(worst) == 2 and len(measured.confusion_labels) == 2 else worst[:MOST_CURVES]
    for curve in worst[len(named) :] if len(worst) > len(named) > 1 else ():
        axes.plot(curve.false_positive_rate, curve.true_positive_rate, color=GREY, alpha=0.3, linewidth=0.7)
    for curve in named:
        label = f"{_short(curve.label)} ({curve.area:.4f})"
        axes.plot(curve.false_positive_rate, curve.true_positive_rate, label=label)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1), ylim=(0, 1.01))
    title = "class (area), the worst of all" if len(worst) > MOST_CURVES else "class (area)"
    axes.legend(fontsize=8, title=title, title_fontsize=8, loc="lower right")
    axes.grid(visible=True, alpha=0.3)


def _reliability(axes: Axes, measured: Measured) -> None:
    filled = [each for each in measured.bins if each.accuracy is not None]
    total = sum(each.count for each in filled)
    width = measured.bins[0].high - measured.bins[0].low
    middles = [(each.low + each.high) / 2 for each in filled]
    shares = [each.count / total for each in filled]
    axes.bar(middles, shares, width=width, color=GREY, alpha=0.35, label="share of the answers")
    confidence = [each.confidence or 0.0 for each in filled]
    accuracy = [each.accuracy or 0.0 for each in filled]
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfect")
    axes.plot(confidence, accuracy, marker="o", color=BLUE, label="accuracy")
    axes.set(xlabel="confidence (mean of a bin)", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(fontsize=8, loc="upper left")
    axes.grid(visible=True, alpha=0.3)


def _latency(axes: Axes, found: Evaluation) -> None:
    latency = found.speed.latency
    assert latency is not None
    samples = 1000 * np.asarray(latency.samples)
    axes.hist(samples, bins=min(40, max(5, len(samples) // 3)), color=BLUE, alpha=0.8)
    for name, style in (("p50", "-"), ("p95", "--"), ("p99", ":")):
        value = 1000 * getattr(latency, name)
        axes.axvline(value, color=ORANGE, linestyle=style, label=f"{name} {value:.2f} ms")
    axes.set(xlabel="milliseconds of one request at a time", ylabel="requests")
    axes.legend(fontsize=8)
    axes.grid(visible=True, alpha=0.3)


def _short(label: str) -> str:
    return label if len(label) <= 24 else f"{label[:21]}..."
