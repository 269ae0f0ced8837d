"""The linear baseline learns what words say."""

from __future__ import annotations

import pytest

from runtime.heads import HeadInput
from train.data import Label, LabelRow, Row, TextRow, UtteranceRow
from train.evaluation.baseline import LinearBaseline
from train.evaluation.bootstrap import Resampling
from train.evaluation.errors import EvaluationError
from train.evaluation.evaluate import Settings, evaluate

WORDS = {"good": ("nice", "lovely", "great"), "bad": ("awful", "dull", "poor")}
SINGLE = "single_label_classification"
SETTINGS = Settings(Resampling(0), latency_samples=2)


def rows(labels: dict[str, Label]) -> list[Row]:
    return [
        LabelRow(number, f"a {word} film of {other}", None, labels[label])
        for number, (label, words) in enumerate(WORDS.items())
        for word in words
        for other in words
    ]


def test_one_label() -> None:
    found = evaluate(
        LinearBaseline(rows({"good": "good", "bad": "bad"}), SINGLE), rows({k: k for k in WORDS}), SETTINGS
    )
    assert found.figures["accuracy"].value == 1
    assert found.about.labels == ("bad", "good")
    assert found.about.method is not None
    assert "logistic regression" in found.about.method
    assert found.speed.latency is not None


def test_several_labels() -> None:
    given = rows({"good": ("good", "film"), "bad": ("bad",)})
    model = LinearBaseline(given, "multi_label_classification")
    assert model.about.labels == ("bad", "film", "good")
    assert evaluate(model, given, SETTINGS).figures["accuracy of all labels"].value == 1


def test_numbers() -> None:
    given = rows({"good": 1.0, "bad": -1.0})
    assert evaluate(LinearBaseline(given, "regression"), given, SETTINGS).figures["R2"].value > 0.8


def test_pairs_are_read_together() -> None:
    given: list[Row] = [
        LabelRow(number, "a film", word, label)
        for label, words in WORDS.items()
        for number, word in enumerate(words * 2)
    ]
    model = LinearBaseline(given, SINGLE)
    assert [
        answer.label for answer in model.answers([HeadInput("a film", "dull"), HeadInput("a film", "nice")])
    ] == [
        "bad",
        "good",
    ]


def test_utterances_have_an_intent_alone() -> None:
    given: list[Row] = [
        UtteranceRow(number, (word, "now"), ("O", "O"), label)
        for label, words in WORDS.items()
        for number, word in enumerate(words * 2)
    ]
    found = evaluate(LinearBaseline(given, SINGLE), given, SETTINGS)
    assert found.figures["accuracy"].value == 1
    assert "slot F1" not in found.figures


def test_rows_out_of_scope_are_left_out() -> None:
    given = [*rows({k: k for k in WORDS}), LabelRow(99, "something else", None, "oos")]
    assert LinearBaseline(given, SINGLE, "oos").about.labels == ("bad", "good")
    with pytest.raises(EvaluationError, match="texts with labels"):
        LinearBaseline([TextRow(1, "x")], SINGLE)
