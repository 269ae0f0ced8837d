"""A linear baseline: TF-IDF of word and character n-grams, and logistic regression, of scikit-learn.

It is what a text model has to pass to be worth its cost. A pair of texts is joined with a separator between.
Of utterances it gives the intent alone. Several labels are independent logistic regressions; numbers are a
ridge regression.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import MultiLabelBinarizer

from runtime.contract import Kind
from runtime.heads import HeadAnswer, HeadInput
from train.data import LabelRow, Row, UtteranceRow
from train.evaluation.errors import EvaluationError
from train.evaluation.process import ProcessMeter
from train.evaluation.target import Description, HeadTarget, Usage

BETWEEN = " \N{VERTICAL LINE} "  # the texts of a pair
WORDS, CHARACTERS = (1, 2), (2, 5)  # lengths of n-grams
STRENGTH = 10.0  # C of the logistic regression
RIDGE = 1.0
ITERATIONS = 500


class LinearBaseline(HeadTarget):
    batch = 1024

    def __init__(self, rows: Sequence[Row], problem_type: str, out_of_scope: str | None = None) -> None:
        """Trained on `rows`, without those of the label `out_of_scope`. Raises EvaluationError."""
        self._meter = ProcessMeter()
        begin = time.perf_counter()
        texts, labels = _texts_and_labels(rows, out_of_scope)
        several = problem_type == "multi_label_classification"
        if problem_type == "regression":
            head, names = Ridge(alpha=RIDGE), []
        else:
            logistic = LogisticRegression(C=STRENGTH, max_iter=ITERATIONS)
            head = OneVsRestClassifier(logistic) if several else logistic
            names = sorted({name for label in labels for name in (label if several else (label,))})
        wanted = MultiLabelBinarizer(classes=names).fit_transform(labels) if several else labels
        self._model = make_pipeline(_features(), head).fit(texts, wanted)
        self._names = names
        self._problem_type = problem_type
        kind = Kind.NLU if isinstance(rows[0], UtteranceRow) else Kind.CLASSIFIER
        how = f"ridge regression (alpha {RIDGE:g})" if not names else f"logistic regression (C {STRENGTH:g})"
        self.about = Description(
            "linear baseline",
            "baseline",
            kind,
            problem_type,
            tuple(map(str, names)),
            method=f"TF-IDF (sublinear, from 2 texts on) of word {_lengths(WORDS)}- and character "
            f"{_lengths(CHARACTERS)}-grams within words, {how}, scikit-learn, {len(texts)} rows, trained in "
            f"{time.perf_counter() - begin:.1f} s",
        )

    def answers(self, inputs: Sequence[HeadInput]) -> list[HeadAnswer]:
        texts = [_joined(item.text, item.text_pair) for item in inputs]
        if self._problem_type == "regression":
            return [
                HeadAnswer(np.array([value], np.float32), "", None) for value in self._model.predict(texts)
            ]
        scores = self._model.predict_proba(texts).astype(np.float32)
        return [HeadAnswer(row, self.about.labels[int(row.argmax())], None) for row in scores]

    def usage(self) -> Usage:
        return self._meter.usage()


def _features() -> Any:
    shared: dict[str, Any] = {"sublinear_tf": True, "min_df": 2, "dtype": np.float32}
    return make_union(
        TfidfVectorizer(ngram_range=WORDS, token_pattern=r"(?u)\b\w+\b", **shared),
        TfidfVectorizer(ngram_range=CHARACTERS, analyzer="char_wb", **shared),
    )


def _texts_and_labels(rows: Sequence[Row], out_of_scope: str | None) -> tuple[list[str], list[Any]]:
    texts, labels = [], []
    for row in rows:
        if isinstance(row, LabelRow) and row.label != out_of_scope:
            texts.append(_joined(row.text, row.text_pair))
            labels.append(row.label)
        elif isinstance(row, UtteranceRow) and row.intent != out_of_scope:
            texts.append(" ".join(row.words))
            labels.append(row.intent)
    if not texts:
        raise EvaluationError("a linear baseline is trained on texts with labels; these rows have none")
    return texts, labels


def _joined(text: str, pair: str | None) -> str:
    return text if pair is None else f"{text}{BETWEEN}{pair}"


def _lengths(span: tuple[int, int]) -> str:
    return f"{span[0]} to {span[1]}"
