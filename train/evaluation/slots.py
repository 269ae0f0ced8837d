"""Slots of utterances: from spans of characters to one tag for each word, and CoNLL's figures by seqeval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from seqeval.metrics import classification_report, precision_score, recall_score

from runtime.messages import Slot
from train.evaluate import spans
from train.evaluation.bootstrap import Indices
from train.evaluation.measured import ClassFigures, Measured

OUTSIDE = "O"
Tags = Sequence[str]


def word_spans(words: Sequence[str]) -> list[tuple[int, int]]:
    """Character spans of words that are joined by single spaces."""
    found, place = [], 0
    for word in words:
        found.append((place, place + len(word)))
        place += len(word) + 1
    return found


def tags_of(words: Sequence[str], slots: Sequence[Slot]) -> tuple[str, ...]:
    """One BIO tag for each word, by the slot that has its first character."""
    tags, last = [], None
    for start, _ in word_spans(words):
        slot = next((each for each in slots if each.start <= start < each.end), None)
        inside = slot is not None and slot is last
        tags.append(OUTSIDE if slot is None else f"{'I' if inside else 'B'}-{slot.name}")
        last = slot
    return tuple(tags)


def with_slots(intents: Measured, expected: Sequence[Tags], found: Sequence[Tags]) -> Measured:
    """The figures of intents, and of slots where rows have tags: precision, recall and F1 over exact spans.

    `intents` are those of the same rows. An I- tag that continues no span of its name begins one, as in
    conlleval.
    """
    pairs = list(zip(map(spans, expected), map(spans, found), strict=True))
    hits, guesses, golds = (
        np.array(column) for column in zip(*((len(e & f), len(f), len(e)) for e, f in pairs), strict=True)
    )

    def slot_f1(rows: Indices) -> float:
        """As seqeval's f1_score of these rows, from the counts of each row: a thousand times as fast."""
        total = guesses[rows].sum() + golds[rows].sum()
        return float(2 * hits[rows].sum() / total) if total else 0.0

    all_slots = np.array([e == f for e, f in pairs])
    main = {**intents.main, "slot F1": slot_f1}
    correct = dict(intents.correct)
    if intents.main:
        right = all_slots & correct["accuracy"]
        main["sentence accuracy"] = lambda rows: float(right[rows].mean())
        correct["sentence accuracy"] = right
    listed = ([list(tags) for tags in expected], [list(tags) for tags in found])
    others = {**intents.others}
    if golds.sum() or guesses.sum():
        others |= {
            "slot precision": float(precision_score(*listed, zero_division=0)),
            "slot recall": float(recall_score(*listed, zero_division=0)),
        }
    return replace(
        intents, rows=len(pairs), main=main, others=others, correct=correct, slots=_per_slot(*listed)
    )


def _per_slot(expected: list[list[str]], found: list[list[str]]) -> tuple[ClassFigures, ...]:
    if not any(map(spans, expected)):
        return ()
    report = classification_report(expected, found, output_dict=True, zero_division=0)
    return tuple(
        ClassFigures(
            name,
            float(figures["precision"]),
            float(figures["recall"]),
            float(figures["f1-score"]),
            int(figures["support"]),
        )
        for name, figures in report.items()
        if not name.endswith(" avg")
    )
