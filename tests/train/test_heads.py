"""Classifier training, starting from a body, and the augmentation of reviews."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from tests.train.tiny import SENTENCES, tiny_config, tiny_tokenizer
from train.augment import as_review, as_statement, detokenise
from train.data import LabelRow
from train.heads import ClassifierTraining, HeadRun, class_logits, encode, start_from_body
from train.tokenizer import END_OF_TEXT_ID, end_with_end_of_text
from train.training import train_on

EXAMPLES = [LabelRow(1, text, None, "LABEL_1" if "bear" in text else "LABEL_0") for text in SENTENCES]


def tiny_classifier() -> GPT2ForSequenceClassification:
    torch.manual_seed(0)
    config = tiny_config(tiny_tokenizer(lowercase=True))
    config.num_labels = 2
    config.pad_token_id = END_OF_TEXT_ID
    return GPT2ForSequenceClassification(config)


def test_classifier_learns_its_sentences(tmp_path: Path) -> None:
    model, tokenizer = tiny_classifier(), tiny_tokenizer(lowercase=True)
    end_with_end_of_text(tokenizer)
    examples = [LabelRow(1, "the bear", None, "LABEL_1"), LabelRow(2, "the fox", None, "LABEL_0")] * 8
    run = HeadRun(epochs=8, batch=4, language_loss=0.1)
    training = ClassifierTraining(model, tokenizer, examples, run)
    found = train_on(training, examples, run.loop(tmp_path, len(examples)))
    assert found["accuracy"] == 1.0


def test_batched_logits_equal_those_of_transformers() -> None:
    model, tokenizer = tiny_classifier().eval(), tiny_tokenizer(lowercase=True)
    rows = encode(tokenizer, EXAMPLES)
    expected = torch.cat([model(torch.tensor([row])).logits for row in rows])
    torch.testing.assert_close(class_logits(model, rows, batch=3), expected, atol=1e-5, rtol=1e-4)


def test_a_body_hands_on_blocks_and_embeddings() -> None:
    source = tiny_tokenizer()
    body = GPT2LMHeadModel(tiny_config(source))
    model, tokenizer = tiny_classifier(), tiny_tokenizer(lowercase=True)
    start_from_body(model, tokenizer, body, source)
    torch.testing.assert_close(model.transformer.h[1].mlp.c_fc.weight, body.transformer.h[1].mlp.c_fc.weight)
    token, theirs = tokenizer.token_to_id("x"), source.token_to_id("x")
    torch.testing.assert_close(model.transformer.wte.weight[token], body.transformer.wte.weight[theirs])


def test_templates_end_every_text() -> None:
    tokenizer = tiny_tokenizer()
    end_with_end_of_text(tokenizer)
    assert tokenizer.encode("The fox").ids[-1] == END_OF_TEXT_ID
    assert tokenizer.encode("The fox", "The bear").ids.count(END_OF_TEXT_ID) == 2


@pytest.mark.parametrize(
    ("tokenised", "typed"),
    [
        ("it 's a charming film .", "it's a charming film."),
        ("i do n't care ( much ) , really", "i don't care (much), really"),
        ("-lrb- a -rrb- `` masterpiece ''", '(a) "masterpiece"'),
    ],
)
def test_detokenise(tokenised: str, typed: str) -> None:
    assert detokenise(tokenised) == typed


def test_augmented_examples_keep_their_label() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        changed = as_review(LabelRow(1, "a good , long film .", None, "positive"), generator)
        assert changed.label == "positive"
        assert "film" in changed.text
        pair = as_statement(LabelRow(1, "a dog runs", "an animal", "entailment"), generator)
        assert (pair.label, pair.text[:10]) == ("entailment", "a dog runs")
