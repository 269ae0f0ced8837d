"""Words that both texts of a pair have: the targets, the teacher, and training that learns to match."""

from pathlib import Path

import pytest
import torch
from transformers import GPT2ForSequenceClassification

from tests.train.tiny import tiny_config, tiny_tokenizer
from train.data import LabelRow
from train.head_parts import look_at_neighbours
from train.heads import HeadRun
from train.language_model import make_config
from train.overlap import NO_TARGET, features, pair_targets, stem, teach, token_targets
from train.pair_training import Matching, PairTraining, look_for_equal_tokens
from train.tokenizer import END_OF_TEXT_ID, PADDING, end_with_end_of_text
from train.training import train_on

ANIMALS = ("bear", "fox", "bird", "wolf", "hare", "duck", "mole", "crow")
PAIRS = [
    LabelRow(1, f"the {first} sleeps", f"a {second}", f"LABEL_{int(first == second)}")
    for first in ANIMALS
    for second in (first, ANIMALS[ANIMALS.index(first) - 1])
]


def tiny_classifier() -> GPT2ForSequenceClassification:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(lowercase=True)
    config = tiny_config(tokenizer)
    config.num_labels, config.n_head = 2, 4
    config.attention = "bidirectional"
    config.pad_token_id = tokenizer.token_to_id(PADDING)
    return GPT2ForSequenceClassification(config)


@pytest.mark.parametrize(("word", "expected"), [("walking", "walk"), ("dogs", "dogs"), ("quickly", "quick")])
def test_stem(word: str, expected: str) -> None:
    assert stem(word) == expected


def test_features_tell_new_words_from_known_ones() -> None:
    found = features(LabelRow(1, "Two men walk", "A man walking outside", ""))
    assert {"new man", "new outside", "word walking", "across outside walk"} <= set(found)
    assert "new walk" not in found


def test_pair_targets() -> None:
    assert pair_targets(LabelRow(1, "Two men walk", "the men walked", "")) == [1.0, 0.0, 0.0]
    assert pair_targets(LabelRow(1, "Two men walk", "men sleep", "")) == [0.0, 0.5, 1.0]


def test_token_targets_mark_the_hypothesis() -> None:
    tokenizer = tiny_tokenizer(lowercase=True)
    end_with_end_of_text(tokenizer)
    encoding = tokenizer.encode("the fox", "the fox")
    targets = token_targets(LabelRow(1, "the fox", "the fox", ""), encoding, END_OF_TEXT_ID)
    start = encoding.ids.index(END_OF_TEXT_ID) + 1
    assert (targets[:start] == NO_TARGET).all()
    assert (targets[-1] == NO_TARGET).all()
    assert (targets[start:-1, 1] == 1).all()


def test_the_teacher_gives_probabilities() -> None:
    taught = teach(PAIRS, [int(str(pair.label)[-1]) for pair in PAIRS])
    assert taught.shape == (len(PAIRS), 2)
    torch.testing.assert_close(taught.sum(dim=1), torch.ones(len(PAIRS)))


def test_equal_tokens_at_other_places_attract_each_other() -> None:
    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(make_config(400, 1, 256, END_OF_TEXT_ID))
    look_at_neighbours(model.transformer)
    look_for_equal_tokens(model, heads=2)
    body = model.transformer
    tokens, places = torch.arange(1, 17).repeat(2), torch.arange(32)  # the same 16 tokens twice
    states = body.h[0].ln_1(body.wte(tokens) + body.wpe(places))
    query, key, _ = body.h[0].attn.c_attn(states).split(256, dim=1)
    for part in (slice(128, 192), slice(192, 256)):
        found = (query[:, part] @ key[:, part].T).argmax(dim=1)
        assert (found == (places + 16) % 32).float().mean() > 0.7
        assert (found != places).all()


def test_a_pair_classifier_trains(tmp_path: Path) -> None:
    model, tokenizer = tiny_classifier(), tiny_tokenizer(lowercase=True)
    end_with_end_of_text(tokenizer)
    run = HeadRun(epochs=12, batch=4, language_loss=0.0, label_smoothing=0.0)
    matching = Matching(heads=1, teacher=0.0)
    training = PairTraining(model, tokenizer, PAIRS, run, lambda e, _: e, matching)
    found = train_on(training, PAIRS, run.loop(tmp_path, len(PAIRS)))
    assert found["accuracy"] >= 0.75
