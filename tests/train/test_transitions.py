"""Transitions of slot tags: their counts, what held-out rows choose, and the checkpoint."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.checkpoint.config import MAX_TRANSITION_LABELS
from export.checkpoint.folder import Checkpoint
from tests.train.tiny import tiny_config, tiny_tokenizer
from train.data import Kind, LabelRow, UtteranceRow
from train.joint_nlu import JointCheckpoint, JointNlu, load_joint, predict
from train.joint_training import JointRun, JointTraining
from train.kinds import make_training
from train.options import Options, make_options
from train.start import open_start
from train.transitions import SMOOTHING, fit_transitions, log_bigrams

SLOTS = ("O", "B-who", "I-who")
ROWS = [UtteranceRow(1, ("the", "fox", "ran"), ("B-who", "I-who", "O"), "ask")]
NAMELESS = [replace(ROWS[0], tags=("O", "O", "O"))]


@pytest.fixture
def undecided() -> JointCheckpoint:
    """A model to which all tags of a word are equally probable."""
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    config.pad_token_id, config.id2label, config.label2id = 0, {0: "ask"}, {"ask": 0}
    model = JointNlu(config, 1, len(SLOTS))
    torch.nn.init.zeros_(model.slot_head.weight)
    return JointCheckpoint(model, tokenizer, ("ask",), SLOTS, echo=False)


def test_bigrams_are_counted() -> None:
    seen, unseen = 2 + SMOOTHING, SMOOTHING
    after = np.array(
        [[unseen, unseen, unseen], [unseen, unseen, seen], [seen, unseen, unseen], [unseen, seen, unseen]]
    )
    expected = after / after.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(log_bigrams(SLOTS, ROWS * 2)), expected, rtol=1e-6)


def test_held_out_rows_choose(undecided: JointCheckpoint) -> None:
    model = undecided.model
    words = [ROWS[0].words]
    assert predict(undecided, words)[0].tags == ("O", "O", "O")
    said = fit_transitions(undecided, ROWS, ROWS)
    assert said.startswith(
        "transitions of slots: 0.05 of their log probabilities, held-out slot F1 1, without"
    )
    assert predict(undecided, words)[0].tags == ROWS[0].tags
    said = fit_transitions(undecided, ROWS, NAMELESS)
    assert said == "transitions of slots: left out, held-out slot F1 1 is not higher with them"
    assert model.transitions is None
    assert predict(undecided, words)[0].tags == ("O", "O", "O")


def test_many_tags_have_none() -> None:
    slots = tuple(f"tag {number}" for number in range(MAX_TRANSITION_LABELS + 1))
    config = tiny_config(tiny_tokenizer())
    joint = JointCheckpoint(JointNlu(config, 1, len(slots)), tiny_tokenizer(), ("ask",), slots, echo=False)
    assert fit_transitions(joint, [], []) == "transitions of slots: left out, of 257 tags: at most 256"
    assert joint.model.transitions is None


def test_another_kind_does_not_take_them(undecided: JointCheckpoint, tmp_path: Path) -> None:
    fit_transitions(undecided, ROWS, ROWS)
    JointTraining(undecided, ROWS, JointRun(epochs=1)).save(tmp_path / "nlu")
    options = make_options(Kind.CLASSIFIER, train=tmp_path, out=tmp_path / "out", start=str(tmp_path / "nlu"))
    rows = [LabelRow(1, "the fox", None, "yes"), LabelRow(2, "ran", None, "no")]
    make_training(Kind.CLASSIFIER, open_start(Kind.CLASSIFIER, options, ()), rows, options).save(
        tmp_path / "classifier"
    )
    assert Checkpoint.open(tmp_path / "classifier").config.head.kind is Kind.CLASSIFIER


def test_they_are_saved_and_fitted_anew(undecided: JointCheckpoint, tmp_path: Path) -> None:
    fit_transitions(undecided, ROWS, ROWS)
    JointTraining(undecided, ROWS, JointRun(epochs=1)).save(tmp_path / "nlu")
    words = [ROWS[0].words]
    assert predict(load_joint(tmp_path / "nlu"), words) == predict(undecided, words)
    assert Checkpoint.open(tmp_path / "nlu").config.slot_transitions
    options = Options(train=tmp_path, out=tmp_path / "out", start=str(tmp_path / "nlu"), attention="causal")
    training = make_training(Kind.NLU, open_start(Kind.NLU, options, ()), ROWS, options)
    assert "slot_transitions.weight" not in training.module.state_dict()
    training.save(tmp_path / "again")
    assert not Checkpoint.open(tmp_path / "again").config.slot_transitions
