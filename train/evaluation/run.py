"""What `lmaas evaluate` and `lmaas calibrate` do: read rows, open targets, and measure them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from runtime.calibration import Calibration
from train.data import Kind, Problem, Row, read_rows
from train.evaluation.baseline import LinearBaseline
from train.evaluation.calibration import Aim, find_calibration
from train.evaluation.comparison import compare
from train.evaluation.errors import EvaluationError
from train.evaluation.evaluate import Evaluation, Progress, Settings, answers_to, evaluate
from train.evaluation.places import Options, open_target
from train.evaluation.report import Report
from train.evaluation.target import Description, HeadTarget, Target

# For the name of a target and its number of rows: within the block, what was answered is shown.
Shown = Callable[[str, int], AbstractContextManager[Progress]]


@dataclass(frozen=True, slots=True)
class Plan:
    """Up to two targets on one file of rows; a linear baseline may be one of them."""

    names: Sequence[str]  # of the targets, as `open_target` takes them
    data: Path
    baseline: Path | None = None  # training rows of a linear baseline, which comes last
    kind: Kind = Kind.CLASSIFIER  # of the rows, and
    problem: Problem = Problem.SINGLE  # theirs, where only a baseline says nothing of both
    settings: Settings = field(default_factory=Settings)
    options: Options = field(default_factory=Options)


def run(plan: Plan, shown: Shown) -> Report:
    """Raises EvaluationError, DataError, ExportError and the family of client/errors.py."""
    kind, problem = plan.kind, plan.problem
    rows: list[Row] = []
    found: list[Evaluation] = []
    for name in plan.names:
        with open_target(name, plan.options) as target:
            kind, problem = target.about.kind, problem_of(target.about)
            rows = _read(plan.data, kind, problem)
            found.append(_evaluated(target, rows, plan.settings, shown))
    if plan.baseline is not None:
        rows = rows or _read(plan.data, kind, problem)
        training = _read(plan.baseline, kind, problem)
        linear = LinearBaseline(training, problem.problem_type, plan.settings.out_of_scope)
        found.append(_evaluated(linear, rows, plan.settings, shown))
    resampling = plan.settings.resampling
    differences = compare(found[0], found[1], resampling) if len(found) == 2 else []
    return Report(str(plan.data), len(rows), resampling, found, differences)


def calibrate(
    name: str, data: Path, aim: Aim, options: Options, shown: Shown
) -> tuple[Description, Calibration]:
    """What would correct the scores of a target. Raises as `run`."""
    with open_target(name, options) as target:
        if not isinstance(target, HeadTarget):
            raise EvaluationError(f"{name}: a language model has no labels whose scores could be calibrated")
        rows = _read(data, target.about.kind, problem_of(target.about))
        with shown(target.about.name, len(rows)) as progress:
            answers = answers_to(target, rows, aim.out_of_scope, progress)
        return target.about, find_calibration(target.about, rows, answers, aim)


def problem_of(about: Description) -> Problem:
    return next(each for each in Problem if each.problem_type == about.problem_type)


def _read(file: Path, kind: Kind, problem: Problem) -> list[Row]:
    return [*read_rows(file, kind, problem=problem)]


def _evaluated(target: Target, rows: Sequence[Row], settings: Settings, shown: Shown) -> Evaluation:
    with shown(target.about.name, len(rows)) as progress:
        return evaluate(target, rows, settings, progress)
