"""Loss curves of a run as a PNG, from its metrics file."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Series = dict[str, list[tuple[int, float]]]


def read_series(metrics: Path) -> Series:
    """What was measured, by name: (step, value). Held-out figures begin with `eval_`."""
    series: Series = {}
    for line in metrics.read_text("utf-8").splitlines():
        entry = json.loads(line)
        for name, value in entry.items():
            if value is not None and (name == "loss" or name.startswith("eval_")) and name != "eval_score":
                series.setdefault(name, []).append((entry["step"], value))
    return series


def draw_curves(metrics: Path, picture: Path) -> None:
    """Losses in one panel, other held-out figures in a second one if there are some."""
    series = read_series(metrics)
    losses = {name: points for name, points in series.items() if name.endswith("loss")}
    others = {name: points for name, points in series.items() if name not in losses}
    figure = Figure(figsize=(5.5 * (1 + bool(others)), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 1 + bool(others), squeeze=False)[0]
    for panel, part in zip(panels, (losses, others), strict=False):
        for name, points in part.items():
            held_out = name.startswith("eval_")
            label = f"{name.removeprefix('eval_')}, {'held-out' if held_out else 'training'}"
            steps, values = zip(*points, strict=True)
            panel.plot(steps, values, label=label, marker="o" if held_out else None, markersize=3)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
        if part:
            panel.legend()
    figure.savefig(picture, dpi=120)
