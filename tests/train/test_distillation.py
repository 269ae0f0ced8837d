"""Distillation: the terms of the loss against plain formulas, and a student that learns from its teacher."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from tests.train.tiny import SENTENCES, tiny_config, tiny_tokenizer
from train import row_losses
from train.batching import Batch, pad
from train.distillation import (
    Distilled,
    ModelTeacher,
    TableTeacher,
    Weights,
    cosine_loss,
    soft_loss,
    spread,
    watched,
)
from train.head_parts import make_bag
from train.heads import label_logits

TOKENIZER = tiny_tokenizer()
IDS = [encoding.ids for encoding in TOKENIZER.encode_batch([*SENTENCES, "The fox."])]
BATCH: Batch = {
    "rows": pad(IDS, 0),
    "lengths": torch.tensor([len(row) for row in IDS]),
    "targets": torch.tensor([0, 1, 2, 1, 0]),
}


def classifier(seed: int, layers: int = 2) -> GPT2ForSequenceClassification:
    config = tiny_config(TOKENIZER)
    config.num_labels, config.n_layer = 3, layers
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = GPT2ForSequenceClassification(config)
        made.score.weight.data.normal_()
    return made


def loss_of(model: GPT2ForSequenceClassification, batch: Batch) -> Tensor:
    hidden = model.transformer(batch["rows"], use_cache=False)[0]
    logits = model.score(hidden[torch.arange(len(hidden)), batch["lengths"] - 1])
    return F.cross_entropy(logits, batch["targets"])


def test_soft_loss_is_the_divergence_at_the_temperature() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 0.0]])
    wanted = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2]])
    expected = 0.0
    for row, probabilities in zip(logits.tolist(), wanted.tolist(), strict=True):
        powers = [math.exp(value / 3) for value in row]
        own = [power / sum(powers) for power in powers]
        expected += sum(p * math.log(p / q) for p, q in zip(probabilities, own, strict=True)) / 2
    found = soft_loss({"score": logits}, [{"score": 3 * wanted.log()}], 3.0, torch.tensor([1, 1]))
    assert found.item() == pytest.approx(9 * expected, rel=1e-5)


def test_several_teachers_are_their_mean() -> None:
    logits, lengths = torch.randn(4, 3), torch.ones(4, dtype=torch.int64)
    one, other = torch.randn(4, 3).softmax(1), torch.randn(4, 3).softmax(1)
    both = soft_loss({"score": logits}, [{"score": one.log()}, {"score": other.log()}], 1.0, lengths)
    mean = soft_loss({"score": logits}, [{"score": ((one + other) / 2).log()}], 1.0, lengths)
    assert both.item() == pytest.approx(mean.item(), rel=1e-5)


def test_padding_does_not_count() -> None:
    lengths = torch.tensor([2, 3])
    logits, wanted = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    states, others = torch.randn(2, 3, 8), torch.randn(2, 3, 8)

    def terms() -> list[float]:
        soft = soft_loss({"lm_head": logits}, [{"lm_head": wanted}], 1.0, lengths)
        return [soft.item(), cosine_loss(states, others, lengths).item()]

    before = terms()
    logits[0, 2] += 1
    others[0, 2] += 1
    assert terms() == before
    logits[0, 1, 0] += 1
    others[0, 1, 0] += 1
    assert all(one != other for one, other in zip(terms(), before, strict=True))


@pytest.mark.parametrize("at_once", [1, 15, 1 << 19])
def test_the_gradient_of_the_soft_loss_is_that_of_the_formula(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(row_losses.AT_ONCE, "cpu", at_once)
    lengths, counted = torch.tensor([2, 4]), [0, 1, 4, 5, 6, 7]
    own, *given = torch.randn(3, 2, 4, 5).unbind()
    own.requires_grad_()
    found = 3 * soft_loss({"lm_head": own}, [{"lm_head": each} for each in given], 2.0, lengths)
    wanted = torch.stack([(each / 2).softmax(2) for each in given]).mean(0)
    plain = F.kl_div(
        (own / 2).log_softmax(2).view(8, 5)[counted], wanted.view(8, 5)[counted], reduction="batchmean"
    )
    assert found.item() == pytest.approx(3 * 4 * plain.item(), rel=1e-5)
    ours, wanted = (torch.autograd.grad(loss, own)[0] for loss in (found, 3 * 4 * plain))
    assert torch.allclose(ours, wanted, atol=1e-6)


def test_equal_states_cost_nothing() -> None:
    states = torch.randn(2, 3, 8)
    assert cosine_loss(states, 2 * states, torch.tensor([2, 3])).item() == pytest.approx(0, abs=1e-6)
    assert cosine_loss(states, -states, torch.tensor([2, 3])).item() == pytest.approx(2, rel=1e-6)


def test_the_loss_is_the_weighted_sum() -> None:
    student, teacher = classifier(0), classifier(1)
    weights = Weights(temperature=2, alpha=0.5, beta=3, gamma=0.25)
    learned = Distilled(
        student,
        lambda batch: loss_of(student, batch),
        [ModelTeacher(teacher, lambda batch: loss_of(teacher, batch))],
        weights,
    )
    with watched(student) as own, watched(teacher) as given:
        hard = loss_of(student, BATCH)
        loss_of(teacher, BATCH)
    soft = soft_loss(own.logits, [given.logits], 2.0, BATCH["lengths"])
    assert own.hidden is not None
    assert given.hidden is not None
    cosine = cosine_loss(own.hidden, given.hidden, BATCH["lengths"])
    expected = 0.5 * hard + 3 * soft + 0.25 * cosine
    assert learned.loss(BATCH).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_student_learns_what_its_teacher_answers_and_not_the_labels() -> None:
    student, teacher = classifier(0, layers=1), classifier(1)
    learned = Distilled(
        student,
        lambda batch: loss_of(student, batch),
        [ModelTeacher(teacher, lambda batch: loss_of(teacher, batch))],
        Weights(alpha=0, gamma=0.5),
    )
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    before = [parameter.clone() for parameter in teacher.parameters()]
    first = learned.loss(BATCH).item()
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(learned.loss(BATCH))
        optimizer.step()
    assert learned.loss(BATCH).item() < 0.25 * first
    with watched(student) as own, watched(teacher) as given:
        loss_of(student, BATCH)
        loss_of(teacher, BATCH)
    assert torch.equal(own.logits["score"].argmax(1), given.logits["score"].argmax(1))
    assert all(torch.equal(*pair) for pair in zip(teacher.parameters(), before, strict=True))
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_table_gives_the_probabilities_of_each_row() -> None:
    probabilities = torch.rand(len(IDS), 3).softmax(1)
    teacher = TableTeacher("score", IDS, probabilities)
    chosen: Batch = {"rows": BATCH["rows"][[3, 1]], "lengths": BATCH["lengths"][[3, 1]]}
    found = teacher.answer(chosen)
    assert torch.allclose(found.logits["score"].softmax(1), probabilities[[3, 1]], atol=1e-5)
    assert found.hidden is None


def test_a_language_model_is_watched_too() -> None:
    model = GPT2LMHeadModel(tiny_config(TOKENIZER))
    with watched(model) as found:
        logits = model(BATCH["rows"], use_cache=False).logits
    assert torch.equal(found.logits["lm_head"], logits)
    assert found.hidden is not None
    assert found.hidden.shape == (5, BATCH["rows"].shape[1], 64)


def test_a_bag_of_n_grams_is_a_part_of_the_logits() -> None:
    model = classifier(0)
    model.config.ngram_buckets, model.config.ngram_orders = 50, [1, 2]
    model.ngrams = make_bag(model.config, 3)
    assert model.ngrams is not None
    model.ngrams.weight.data.normal_()
    hidden = model.transformer(BATCH["rows"], use_cache=False)[0]
    with watched(model) as found:
        logits = label_logits(model, hidden, BATCH["rows"], BATCH["lengths"])
    assert torch.equal(found.logits["score"], logits)
    alone = model.score(hidden[torch.arange(len(hidden)), BATCH["lengths"] - 1])
    assert not torch.allclose(logits, alone)


@pytest.mark.parametrize(
    ("layers", "count", "places"),
    [(12, 6, [0, 2, 4, 7, 9, 11]), (4, 2, [0, 3]), (3, 3, [0, 1, 2]), (5, 1, [0])],
)
def test_layers_are_spread_evenly(layers: int, count: int, places: list[int]) -> None:
    assert spread(layers, count) == places


@pytest.mark.parametrize("count", [0, 5])
def test_a_student_has_no_more_layers_than_its_teacher(count: int) -> None:
    with pytest.raises(ValueError, match=r"the teacher has 4, and the student has 1 to 4"):
        spread(4, count)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0.0}, "temperature: 0.0: a number above 0"),
        ({"alpha": -1.0}, "alpha: -1.0: a number from 0"),
        ({"beta": 0.0, "gamma": 0.0}, "nothing would be learned from the teacher"),
    ],
)
def test_weights_are_checked(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Weights(**given)
