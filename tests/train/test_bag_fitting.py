"""A bag of n-grams that is fitted before the body trains: it learns, and it is half of an answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from train.bag_fitting import characters_in, fit_bag, weigh_bag
from train.data import Kind, LabelRow, Problem, Row, UtteranceRow
from train.head_parts import body_states
from train.heads import encode, label_logits
from train.kinds import make_training
from train.options import Options
from train.start import open_start
from train.training import Training

# The order of two words decides; no single word does.
TEXTS = [f"{a} the {b} {c}" for a, b in (("cat", "dog"), ("dog", "cat")) for c in ("runs", "sleeps", "eats")]


def made(kind: Kind, rows: Sequence[Row], **given: Any) -> Any:
    size: dict[str, Any] = {"vocabulary": 300, "layers": 1, "width": 64, "context": 64}
    options = Options(train=Path(), out=Path(), ngram_buckets=1 << 14, ngram_order=5, **size, **given)
    return make_training(kind, open_start(kind, options, TEXTS * 9), rows, options)


def labelled(*labels: Any) -> list[LabelRow]:
    """Half of the texts have the first label."""
    return [LabelRow(n, text, None, labels[n // 3]) for n, text in enumerate(TEXTS * 2) if n < 6]


def logits_of(training: Any, rows: Sequence[LabelRow], train: bool = False) -> torch.Tensor:
    module, ids = training.module.train(train), encode(training.tokenizer, rows)
    lengths = torch.tensor([len(row) for row in ids])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
    with torch.no_grad():
        return label_logits(module, body_states(module.transformer, padded, lengths), padded, lengths)


def states_of(training: Any, rows: Sequence[LabelRow]) -> torch.Tensor:
    """What the head reads of each row."""
    model = training.module.eval()
    with torch.no_grad():
        return torch.cat(
            [
                body_states(model.transformer, torch.tensor([ids]), torch.tensor([len(ids)]))[:, -1]
                for ids in encode(training.tokenizer, rows)
            ]
        )


def silence_body(training: Any) -> None:
    torch.nn.init.zeros_(training.module.score.weight)


def test_a_bag_learns_what_n_grams_say() -> None:
    rows = labelled("red", "blue")
    training = made(Kind.CLASSIFIER, rows)
    line = fit_bag(training, rows, rows)
    assert line is not None
    assert line.startswith("n-grams: ")
    assert "fitted with strength" in line
    silence_body(training)
    assert training.figures(rows)["accuracy"] == 1.0


def test_a_bag_of_pairs_sees_what_is_new_in_the_second_text() -> None:
    words = ("cat", "dog", "runs", "sleeps", "eats")
    pairs = [(a, b) for n, a in enumerate(words) for b in (a, words[n - 1])]
    rows = [LabelRow(n, f"the {a}", f"the {b}", str(a == b)) for n, (a, b) in enumerate(pairs)]
    training = made(Kind.CLASSIFIER, rows)
    assert training.model.config.ngram_pairs
    assert fit_bag(training, rows, rows) is not None
    silence_body(training)
    # Each word was new and known, but not beside these.
    others = [LabelRow(n, f"the {words[n - 2]}", f"the {b}", "False") for n, b in enumerate(words)]
    assert training.figures([*rows, *others])["accuracy"] == 1.0


def test_three_classes() -> None:
    rows = [LabelRow(n, f"{text} today", None, text) for text in ("rain", "sun", "snow") for n in range(2)]
    training = made(Kind.CLASSIFIER, rows)
    assert fit_bag(training, rows, rows) is not None
    silence_body(training)
    assert training.figures(rows)["accuracy"] == 1.0


def test_several_classes_a_row() -> None:
    rows = labelled(("red", "big"), ("blue",))
    training = made(Kind.CLASSIFIER, rows, problem=Problem.MULTI)
    assert fit_bag(training, rows, rows) is not None
    found = logits_of(training, rows)
    silence_body(training)
    assert training.figures(rows)["F1"] > 0.85
    assert found.isfinite().all()


def test_a_value() -> None:
    rows = labelled(4.0, -2.0)
    training = made(Kind.CLASSIFIER, rows, problem=Problem.REGRESSION)
    assert fit_bag(training, rows, rows) is not None
    silence_body(training)
    # Half of each value: the body has the other half.
    assert logits_of(training, rows)[:, 0].tolist() == pytest.approx([2.0] * 3 + [-1.0] * 3, abs=0.5)


def test_in_training_the_body_is_alone() -> None:
    rows = labelled("red", "blue")
    training = made(Kind.CLASSIFIER, rows, dropout=0.0)
    before = logits_of(training, rows)
    fit_bag(training, rows, rows)
    assert torch.allclose(logits_of(training, rows, train=True), 2 * before, atol=1e-5)
    assert not torch.allclose(logits_of(training, rows), before, atol=0.1)
    training.module.train()
    loss: Any = training.loss(training.batches[0])
    loss.backward()
    assert training.module.ngrams.weight.grad is None


def test_intents() -> None:
    rows = [
        UtteranceRow(n, tuple(text.split()), ("O",) * 4, "ask" if n < 3 else "say")
        for n, text in enumerate(TEXTS)
    ]
    training = made(Kind.NLU, rows)
    assert fit_bag(training, rows, rows) is not None
    torch.nn.init.zeros_(training.module.intent_head.weight)
    assert training.figures(rows)["intent accuracy"] == 1.0


@pytest.mark.parametrize("why", ["no bag", "a bag with weights", "no n-gram twice"])
def test_nothing_to_fit(why: str) -> None:
    rows = labelled("red", "blue")
    training: Training = made(Kind.CLASSIFIER, rows)
    module: Any = training.module
    if why == "no bag":
        module.ngrams = None
    elif why == "a bag with weights":
        torch.nn.init.normal_(module.ngrams.weight)
    assert fit_bag(training, rows[:1] if why == "no n-gram twice" else rows, rows) is None


def test_an_n_gram_of_one_row_says_what_its_characters_say() -> None:
    texts = [f"{word} {end}" for word in ("paying", "shipping") for end in "abc"]
    rows = [LabelRow(n, text, None, "money" if n < 3 else "parcel") for n, text in enumerate(texts)]
    training = made(Kind.CLASSIFIER, rows)
    assert fit_bag(training, rows, rows) is not None
    # "ying a", of five tokens, is in the first row alone; "ying " is in three rows.
    gram = training.tokenizer.encode("paying a").ids[-6:-1]
    money, parcel = training.module.ngrams.weight[training.module.ngrams.buckets(torch.tensor(gram))]
    assert money > parcel + 0.01


def test_a_smaller_tolerance_fits_closer() -> None:
    rows = labelled("red", "blue")
    losses = []
    for tolerance in (0.1, 1e-6):
        training = made(Kind.CLASSIFIER, rows)
        fit_bag(training, rows, rows, tolerance)
        silence_body(training)
        losses.append(training.figures(rows)["loss"])
    assert losses[1] < losses[0] - 0.01


@pytest.mark.parametrize("better", ["bag", "body"])
def test_held_out_rows_weigh_body_and_bag(better: str) -> None:
    rows = labelled("red", "blue")
    training = made(Kind.CLASSIFIER, rows)
    assert weigh_bag(training, rows) is None
    fit_bag(training, rows, rows)
    module = training.module
    # Of a body that is right and a bag that is wrong, or the other way round.
    sign = 1 if better == "body" else -1
    module.ngrams.weight.data *= -sign
    taught = training.for_bag(rows)[1] - 0.5
    module.score.weight.data = sign * 3 * torch.linalg.lstsq(states_of(training, rows), taught).solution.T
    before, body, bag = training.figures(rows), module.score.weight.clone(), module.ngrams.weight.clone()
    line = weigh_bag(training, rows)
    of_body, of_bag = (0.1, 1.5) if better == "bag" else (1.5, 0.1)
    assert line is not None
    assert f"{of_body:g} of the transformer's and {of_bag:g} of the n-grams'" in line
    assert torch.allclose(module.ngrams.weight, 2 * of_bag * bag)
    assert torch.allclose(module.score.weight, 2 * of_body * body)
    # The training showed what the scaled model answers.
    assert training.figures(rows)["loss"] == pytest.approx(before["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("tokens", "found"),
    [
        (["\u0120pay"], ["\u0120p", "pa", "ay", "\u0120pa", "pay", "\u0120pay"]),
        # Those of one token alone are that token's.
        (["ab", "cd"], ["bc", "abc", "bcd", "abcd"]),
        # A space ends a word.
        (["b", "\u0120c"], ["b\u0120"]),
        (["a", "b", "c"], ["abc"]),
        (["b", "\0"], ["b\0"]),
    ],
)
def test_character_n_grams_of_tokens(tokens: list[str], found: list[str]) -> None:
    assert list(characters_in(tokens)) == found
