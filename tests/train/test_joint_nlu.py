"""Input layout, word alignment, typed text, and a micro training run of the joint model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tests.train.tiny import tiny_config
from train import joint_training
from train.checkpoint import save_checkpoint
from train.data import UtteranceRow
from train.evaluation.slots import word_spans
from train.joint_nlu import JointCheckpoint, JointNlu, layout, load_joint, predict, word_starts
from train.joint_training import (
    JointRun,
    JointTraining,
    SlotValues,
    as_typed,
    as_written,
    joint_figures,
    token_tags,
)
from train.tokenizer import train_tokenizer
from train.training import train_on

UTTERANCES = [
    UtteranceRow(
        1, ("play", "jazz", "by", "miles", "davis"), ("O", "B-genre", "O", "B-artist", "I-artist"), "Play"
    ),
    UtteranceRow(
        1, ("play", "soul", "by", "nina", "simone"), ("O", "B-genre", "O", "B-artist", "I-artist"), "Play"
    ),
    UtteranceRow(1, ("will", "it", "rain", "in", "paris"), ("O", "O", "O", "O", "B-city"), "Weather"),
    UtteranceRow(1, ("will", "it", "snow", "in", "rome"), ("O", "O", "O", "O", "B-city"), "Weather"),
]
SLOTS = ("O", "B-artist", "B-city", "B-genre", "I-artist")


def tokenizer() -> Tokenizer:
    return train_tokenizer((" ".join(u.words) for u in UTTERANCES), 290, lowercase=True)


def untrained(echo: bool) -> JointCheckpoint:
    torch.manual_seed(0)
    config = tiny_config(tokenizer())
    config.id2label = {0: "Play", 1: "Weather"}
    return JointCheckpoint(JointNlu(config, 2, len(SLOTS)), tokenizer(), ("Play", "Weather"), SLOTS, echo)


def test_echo_layout() -> None:
    assert layout([5, 6], 0, echo=True) == [5, 6, 0, 5, 6]
    assert layout([5, 6], 0, echo=False) == [5, 6]


def test_tokens_find_the_word_of_their_last_character() -> None:
    # "ab cd": a, b, " cd".
    assert word_starts(word_spans(["ab", "cd"]), [(0, 1), (1, 2), (2, 5)]) == [0, 0, 1]
    assert word_starts([(0, 2)], [(0, 2), (2, 3)]) == [0, -1]


def test_first_piece_has_the_tag_and_further_pieces_continue_it() -> None:
    tagged = as_written(UtteranceRow(1, ("in", "paris"), ("O", "B-artist"), "Play"))
    index = {tag: number for number, tag in enumerate(SLOTS)}
    tags = token_tags([(0, 2), (2, 5), (5, 8)], tagged, index)
    assert [SLOTS[tag] for tag in tags] == ["O", "B-artist", "I-artist"]


def test_typed_text_gets_its_apostrophe_back() -> None:
    utterance = UtteranceRow(1, ("clinton", "s", "list"), ("B-artist", "I-artist", "O"), "Play")
    tagged = as_typed(utterance, np.random.default_rng(0))
    assert tagged.text.startswith("clinton's list")
    assert [tagged.text[first:end] for first, end in tagged.spans] == ["clinton", "'s", "list"]


def test_exchanged_values_stay_within_their_slot() -> None:
    values = SlotValues(UTTERANCES)
    changed = values.exchange(UTTERANCES[2], JointRun(epochs=1, exchange=1.0), np.random.default_rng(0))
    assert changed.words[:4] == ("will", "it", "rain", "in")
    assert changed.words[4] in {"paris", "rome"}
    assert changed.tags == UTTERANCES[2].tags


def test_invented_words_are_new_and_keep_their_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_training, "MOST_VALUES", 1)
    values = SlotValues(UTTERANCES)
    run = JointRun(epochs=1, exchange=0.0, invented=1.0)
    found = [values.exchange(UTTERANCES[0], run, np.random.default_rng(seed)) for seed in range(20)]
    assert {each.words[:3] for each in found} != {UTTERANCES[0].words[:3]}
    assert {each.tags for each in found} == {UTTERANCES[0].tags}
    assert {each.words[0] for each in found} == {"play"}
    assert len({each.words[3:] for each in found}) > 10


@pytest.mark.parametrize("echo", [True, False])
def test_joint_model_learns_its_utterances(echo: bool, tmp_path: Path) -> None:
    joint = untrained(echo)
    run = JointRun(epochs=10, batch=4, language_loss=0.0, typed=0.0, exchange=0.0, echo=echo)
    training = JointTraining(joint, UTTERANCES * 8, run)
    figures = train_on(training, UTTERANCES, run.loop(tmp_path, len(UTTERANCES) * 8))
    assert figures == {"intent accuracy": 1.0, "slot F1": 1.0}


def test_saved_model_predicts_the_same(tmp_path: Path) -> None:
    joint = untrained(echo=True)
    save_checkpoint(
        tmp_path,
        joint.model,
        joint.model.config,
        joint.tokenizer,
        architectures=["GPT2ForJointNlu"],
        slot_labels=list(SLOTS),
        nlu_echo=True,
    )
    loaded = load_joint(tmp_path)
    assert (loaded.intents, loaded.slots, loaded.echo) == (joint.intents, SLOTS, True)
    words = [utterance.words for utterance in UTTERANCES]
    assert predict(loaded, words) == predict(joint, words)
    assert joint_figures(loaded, UTTERANCES) == joint_figures(joint, UTTERANCES)
