"""Evaluation of one target on rows: its answers, the figures with their intervals, and its speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.contract import Kind
from runtime.heads import HeadAnswer, HeadInput
from train.data import LabelRow, Row, TextRow, UtteranceRow
from train.evaluation.bootstrap import Figure, Resampling
from train.evaluation.classes import measure_multi, measure_numbers, measure_single
from train.evaluation.errors import EvaluationError
from train.evaluation.measured import Measured
from train.evaluation.slots import tags_of, with_slots
from train.evaluation.speed import Latency, Speed, Stopwatch, measure_latency
from train.evaluation.target import Description, HeadTarget, LanguageTarget, Target
from train.evaluation.texts import ScoredText, measure_texts, score_texts
from train.evaluation.windows import windows

SHOWN = 12  # labels in a message
Progress = Callable[[int], None]  # gets the number of rows that were answered since the last call
AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass(frozen=True, slots=True)
class Settings:
    """How rows are evaluated."""

    resampling: Resampling = field(default_factory=Resampling)
    latency_samples: int = 100  # requests one after another; 0: no times are taken
    window: int | None = None  # most tokens that a language model reads at once; None: its context
    out_of_scope: str | None = None  # the label of rows that have none of the model's
    threshold: float | None = None  # None: that of the target, if it has one


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was found of one target."""

    about: Description
    measured: Measured
    figures: Mapping[str, Figure]  # those with intervals first
    speed: Speed
    window: int | None = None  # of a language model


def evaluate(
    target: Target, rows: Sequence[Row], settings: Settings, progress: Progress = lambda count: None
) -> Evaluation:
    """Raises EvaluationError."""
    if isinstance(target, LanguageTarget):
        texts = [row.text for row in _all_of(TextRow, rows)]
        window = min(target.context_length, settings.window or target.context_length)
        measured, speed = _of_texts(target, texts, window, settings, progress)
    elif isinstance(target, HeadTarget):
        window = None
        measured, speed = _of_heads(target, rows, settings, progress)
    else:
        raise TypeError(type(target).__name__)
    figures = {
        name: settings.resampling.figure(statistic, measured.rows)
        for name, statistic in measured.main.items()
    }
    others = {name: Figure(value) for name, value in measured.others.items() if name not in figures}
    return Evaluation(target.about, measured, figures | others, speed, window)


def _all_of(kind: type[AnyRow], rows: Sequence[Row]) -> list[AnyRow]:
    return [row for row in rows if isinstance(row, kind)]


def _of_texts(
    target: LanguageTarget, texts: Sequence[str], window: int, settings: Settings, progress: Progress
) -> tuple[Measured, Speed]:
    scored: list[ScoredText] = []
    with Stopwatch(target) as watch:
        for each in score_texts(target, texts, window):
            scored.append(each)
            progress(1)
    measured = measure_texts(scored)

    def ask(number: int) -> None:
        tokens = [target.separator, *target.encode(texts[number])]
        first = next(windows(len(tokens), window))
        target.logprobs([tokens[first.start : first.end]])

    latency = measure_latency(ask, len(texts), settings.latency_samples)
    unit = f"token scored; a request is the beginning of a text, up to {window} tokens"
    return measured, _speed(unit, latency, measured.counts["tokens"], watch)


def _of_heads(
    target: HeadTarget, rows: Sequence[Row], settings: Settings, progress: Progress
) -> tuple[Measured, Speed]:
    with Stopwatch(target) as watch:
        answers = answers_to(target, rows, settings.out_of_scope, progress)
    inputs = [_input(row) for row in rows]
    latency = measure_latency(
        lambda number: target.answers([inputs[number]]), len(inputs), settings.latency_samples
    )
    return measure_heads(target.about, rows, answers, settings), _speed("row", latency, len(rows), watch)


def answers_to(
    target: HeadTarget, rows: Sequence[Row], out_of_scope: str | None, progress: Progress
) -> list[HeadAnswer]:
    """To all rows, in batches. Raises EvaluationError."""
    check_labels(target.about, rows, out_of_scope)
    answers: list[HeadAnswer] = []
    for first in range(0, len(rows), target.batch):
        part = [_input(row) for row in rows[first : first + target.batch]]
        answers += target.answers(part)
        progress(len(part))
    return answers


def _speed(unit: str, latency: Latency | None, units: int, watch: Stopwatch) -> Speed:
    return Speed(unit, latency, units / watch.seconds, watch.cpu_cores, watch.memory)


def _input(row: Row) -> HeadInput:
    if isinstance(row, LabelRow):
        return HeadInput(row.text, row.text_pair)
    if isinstance(row, UtteranceRow):
        return HeadInput(" ".join(row.words))
    raise EvaluationError(f"row {row.row}: a text without a label")


def check_labels(about: Description, rows: Sequence[Row], out_of_scope: str | None = None) -> None:
    """Raises EvaluationError where a row has a label that the model cannot give."""
    known = {*about.labels, *([out_of_scope] if out_of_scope else [])}
    for row in rows:
        labels: Sequence[object] = ()
        if isinstance(row, UtteranceRow):
            labels = (row.intent,) if about.labels else ()
        elif isinstance(row, LabelRow) and about.problem_type != "regression":
            labels = row.label if isinstance(row.label, tuple) else (row.label,)
        for label in labels:
            if label not in known:
                listed = ", ".join(about.labels[:SHOWN]) + (", ..." if len(about.labels) > SHOWN else "")
                raise EvaluationError(
                    f"row {row.row}: {label!r} is no label of {about.name}, which has {listed}; "
                    "--out-of-scope names a label of rows that have none of them"
                )


def measure_heads(
    about: Description, rows: Sequence[Row], answers: Sequence[HeadAnswer], settings: Settings
) -> Measured:
    """The figures of a classifier's or an nlu model's answers to these rows."""
    scores = np.stack([answer.scores for answer in answers]).astype(np.float64)
    threshold = about.threshold if settings.threshold is None else settings.threshold
    labelled = [row for row in rows if isinstance(row, LabelRow)]
    if about.problem_type == "regression":
        return measure_numbers(np.array([row.label for row in labelled], np.float64), scores[:, 0])
    if about.problem_type == "multi_label_classification":
        return measure_multi(about.labels, expected_sets(about.labels, labelled), scores)
    found = Measured(rows=len(rows), main={})
    expected = expected_places(about.labels, rows)
    if about.labels:
        # Sums of 1 also in double precision, which scikit-learn's log loss asks for.
        shares = scores / scores.sum(axis=1, keepdims=True)
        found = measure_single(about.labels, expected, shares, threshold)
    if about.kind is Kind.CLASSIFIER or any(answer.slots is None for answer in answers):
        return found
    pairs = [
        (row.tags, tags_of(row.words, answer.slots or []))
        for row, answer, place in zip(rows, answers, expected, strict=True)
        if isinstance(row, UtteranceRow) and (place >= 0 or not about.labels)
    ]
    return with_slots(found, *zip(*pairs, strict=True))


def expected_places(labels: Sequence[str], rows: Sequence[Row]) -> list[int]:
    """The index of each row's one label or intent, -1 where it is none of `labels`."""
    places = {label: number for number, label in enumerate(labels)}
    names = (row.intent if isinstance(row, UtteranceRow) else getattr(row, "label", None) for row in rows)
    return [places.get(str(name), -1) for name in names]


def expected_sets(labels: Sequence[str], rows: Sequence[LabelRow]) -> NDArray[np.bool_]:
    """`[rows, labels]`: which labels each row has."""
    wanted = [row.label if isinstance(row.label, tuple) else (row.label,) for row in rows]
    return np.array([[label in names for label in labels] for names in wanted])
