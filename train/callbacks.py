"""What the loop does between steps: evaluations on time, and a bar or reports of how far it is."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

MOST_REPORTS = 200  # of one run, about
REPORT_SECONDS = 1.0  # between two of them, at least


@dataclass(frozen=True)
class RunProgress:
    """How far a run is. `figures` are the latest held-out figures by name."""

    step: int
    steps: int
    loss: float | None = None
    seconds_left: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


Report = Callable[[RunProgress], None]


class EvaluateOnTime(TrainerCallback):  # type: ignore[misc]
    """Asks for an evaluation after each interval, and after the last step."""

    def __init__(self, every: int) -> None:
        self._every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self._every == 0 or state.global_step >= state.max_steps:
            control.should_evaluate = True


class ShowProgress(TrainerCallback):  # type: ignore[misc]
    """On standard error: a bar on a terminal, else one line for each evaluation."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._moves = sys.stderr.isatty() and not console.is_dumb_terminal
        columns = (
            *(TextColumn("training"), BarColumn(24), MofNCompleteColumn(), TextColumn("steps")),
            *(TimeRemainingColumn(), TextColumn("{task.fields[figures]}", markup=False)),
        )
        self._bar = Progress(*columns, console=console, disable=not self._moves)
        self._task = TaskID(0)
        self._loss = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step, figures="")
        self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        if "loss" in logs:
            self._loss = f"loss {logs['loss']:.3f}"
            self._bar.update(self._task, figures=self._loss)
        held_out = [
            f"{name.removeprefix('eval_')} {value:.4g}"
            for name, value in logs.items()
            if name.startswith("eval_") and name != "eval_score"
        ]
        if held_out:
            line = (
                f"step {state.global_step} of {state.max_steps}: {self._loss}; held-out {', '.join(held_out)}"
            )
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.stop()


class ReportProgress(TrainerCallback):  # type: ignore[misc]
    """Calls `report` at the first and the last step, and between them now and then."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._loss: float | None = None
        self._figures: dict[str, float] = {}
        self._begin = (0, 0.0)  # step and time at which this part of the run began
        self._last = (0, 0.0)  # of the last report

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begin = self._last = (state.global_step, time.monotonic())
        self._send(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, moment = self._last
        due = state.global_step - step >= state.max_steps / MOST_REPORTS
        if due and time.monotonic() - moment >= REPORT_SECONDS:
            self._send(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        if math.isfinite(loss := logs.get("loss", math.nan)):
            self._loss = loss
        for name, value in logs.items():
            if name.startswith("eval_") and name != "eval_score" and math.isfinite(value):
                self._figures[name.removeprefix("eval_")] = value

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._send(state)

    def _send(self, state: Any) -> None:
        now, done = time.monotonic(), state.global_step - self._begin[0]
        self._last = (state.global_step, now)
        left = (state.max_steps - state.global_step) * (now - self._begin[1]) / done if done else None
        progress = RunProgress(state.global_step, state.max_steps, self._loss, left, dict(self._figures))
        self._report(progress)
