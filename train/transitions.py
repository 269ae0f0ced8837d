"""Scores of each slot tag after the tag before it, which decoding adds to those of the model.

They are log probabilities of bigrams of the training rows' tags, times a strength that held-out rows choose.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from export.checkpoint.config import MAX_TRANSITION_LABELS
from train.data import UtteranceRow
from train.evaluate import span_f1
from train.joint_nlu import JointCheckpoint, best_tags, read_utterances

STRENGTHS = (0.05, 0.1, 0.2, 0.3, 0.5)
SMOOTHING = 0.1  # added to the count of each pair of tags


def fit_transitions(
    joint: JointCheckpoint, rows: Sequence[UtteranceRow], held_out: Sequence[UtteranceRow]
) -> str:
    """Give the model the transitions of `rows` that are best on `held_out`, if some are; a line about it."""
    if len(joint.slots) > MAX_TRANSITION_LABELS:
        joint.model.set_transitions(None)
        return f"transitions of slots: left out, of {len(joint.slots)} tags: at most {MAX_TRANSITION_LABELS}"
    scores = log_bigrams(joint.slots, rows)
    read = read_utterances(joint, [row.words for row in held_out])
    expected = [row.tags for row in held_out]

    def figure(transitions: NDArray[np.float32] | None) -> float:
        return span_f1(best_tags(joint.slots, transitions, [tagged for _, tagged in read]), expected)

    without = figure(None)
    found = {strength: figure(strength * scores) for strength in STRENGTHS}
    strength = max(STRENGTHS, key=found.__getitem__)
    if found[strength] <= without:
        joint.model.set_transitions(None)
        return f"transitions of slots: left out, held-out slot F1 {without:.4g} is not higher with them"
    joint.model.set_transitions(strength * scores)
    figures = f"held-out slot F1 {found[strength]:.4g}, without them {without:.4g}"
    return f"transitions of slots: {strength:g} of their log probabilities, {figures}"


def log_bigrams(labels: Sequence[str], rows: Sequence[UtteranceRow]) -> NDArray[np.float32]:
    """[labels + 1, labels]: log P(label | label before it); the last row is of the first word."""
    places = {label: place for place, label in enumerate(labels)}
    counts = np.full((len(labels) + 1, len(labels)), SMOOTHING)
    for row in rows:
        tags = [places[tag] for tag in row.tags]
        np.add.at(counts, ([len(labels), *tags[:-1]], tags), 1)
    found: NDArray[np.float32] = np.log(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    return found
