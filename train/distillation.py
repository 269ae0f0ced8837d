"""Distillation: a smaller model learns what larger ones answer, beside the labels of the rows.

    loss = alpha * loss of the labels
         + beta * temperature^2 * KL(teacher's probabilities || student's), both at the temperature
         + gamma * (1 - cosine of the last hidden states, averaged over tokens)

Sources: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015 (arXiv 1503.02531), for
the soft targets and the square of the temperature; Sanh et al., DistilBERT, 2019 (arXiv 1910.01108), for the
three terms, their weights (2, 5 and 1) and for layers of the student that are copied from the teacher.
Several teachers are an ensemble: the student learns the mean of their probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from train.batching import Batch
from train.row_losses import PartLoss, mean_loss

HEADS = ("lm_head", "score", "classifier", "intent_head", "slot_head")  # modules whose outputs are logits


@dataclass(frozen=True)
class Weights:
    """The terms of the loss; the defaults are DistilBERT's."""

    temperature: float = 2.0
    alpha: float = 2.0  # hard labels
    beta: float = 5.0  # soft targets
    gamma: float = 1.0  # hidden states

    def __post_init__(self) -> None:
        if not 0 < self.temperature <= 100:
            raise ValueError(f"temperature: {self.temperature}: a number above 0, up to 100 is needed")
        for name in ("alpha", "beta", "gamma"):
            if not 0 <= getattr(self, name) <= 1000:
                raise ValueError(f"{name}: {getattr(self, name)}: a number from 0 to 1000 is needed")
        if self.beta == self.gamma == 0:
            raise ValueError("beta and gamma are both 0: nothing would be learned from the teacher")


@dataclass
class Outputs:
    """What a model answered for a batch."""

    logits: dict[str, Tensor] = field(default_factory=dict)  # [.., classes] of each head, by its name
    hidden: Tensor | None = None  # [rows, tokens, width], after the last norm


class Teacher(Protocol):
    def answer(self, batch: Batch) -> Outputs:
        """Logits of each head, and the last hidden states where there are some; none has a gradient."""


@contextmanager
def watched(model: Any) -> Iterator[Outputs]:
    """Collects what the model's heads and its last norm return within the block.

    A bag of n-grams runs after the head to whose logits it adds.
    """
    found = Outputs()

    def keep_logits(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: found.logits.__setitem__(name, output)

    hooks = [
        model.transformer.ln_f.register_forward_hook(lambda m, i, output: setattr(found, "hidden", output))
    ]
    hooks += [
        getattr(model, name).register_forward_hook(keep_logits(name))
        for name in HEADS
        if hasattr(model, name)
    ]
    bag = getattr(model, "ngrams", None)
    if bag is not None:
        head = "score" if hasattr(model, "score") else "intent_head"

        def add_bag(module: Any, inputs: Any, output: Tensor) -> None:
            found.logits[head] = found.logits[head] + output

        hooks.append(bag.register_forward_hook(add_bag))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


class ModelTeacher:
    """A model of the student's kind that reads the same tokens."""

    def __init__(self, model: Any, loss_of: Callable[[Batch], Tensor]) -> None:
        """`loss_of` runs the model on a batch as the student's does; the loss itself is not used."""
        self._model = model.eval()
        self._loss_of = loss_of
        self.width: int = model.config.n_embd  # of its hidden states

    @torch.no_grad()
    def answer(self, batch: Batch) -> Outputs:
        self._model.to(batch["rows"].device)
        with watched(self._model) as found:
            self._loss_of(batch)
        return found


class TableTeacher:
    """Any classifier whose probabilities of the training rows are known, as those of a linear model."""

    def __init__(self, head: str, rows: Sequence[Sequence[int]], probabilities: Tensor) -> None:
        """`rows` are token ids as the student reads them; `probabilities` is [rows, classes]."""
        self._head = head
        self._known = {tuple(row): place for place, row in enumerate(rows)}
        self._log_probabilities = probabilities.clamp_min(1e-6).log()

    def answer(self, batch: Batch) -> Outputs:
        rows, lengths = batch["rows"].tolist(), batch["lengths"].tolist()
        places = [self._known[tuple(row[:length])] for row, length in zip(rows, lengths, strict=True)]
        return Outputs({self._head: self._log_probabilities[places].to(batch["rows"].device)})


class Distilled:
    """The loss of a student: that of its labels, and what it has to learn from its teachers."""

    def __init__(
        self, model: Any, loss_of: Callable[[Batch], Tensor], teachers: Sequence[Teacher], weights: Weights
    ) -> None:
        """Hidden states are compared with the first teacher that has some, and must be as wide as there."""
        self._model = model
        self._loss_of = loss_of
        self._teachers = teachers
        self._weights = weights

    def loss(self, batch: Batch) -> Tensor:
        """The mean loss of a batch, a scalar."""
        weights = self._weights
        answers = [teacher.answer(batch) for teacher in self._teachers]
        with watched(self._model) as found:
            hard = self._loss_of(batch)
        # With a weight of zero its gradient would still be computed.
        loss = weights.alpha * hard if weights.alpha else torch.zeros_like(hard)
        if weights.beta:
            given = [answer.logits for answer in answers]
            soft = soft_loss(found.logits, given, weights.temperature, batch["lengths"])
            loss = loss + weights.beta * soft
        hidden = next((answer.hidden for answer in answers if answer.hidden is not None), None)
        if weights.gamma and hidden is not None and found.hidden is not None:
            loss = loss + weights.gamma * cosine_loss(found.hidden, hidden, batch["lengths"])
        return loss


def soft_loss(
    logits: Mapping[str, Tensor],
    teachers: Sequence[Mapping[str, Tensor]],
    temperature: float,
    lengths: Tensor,
) -> Tensor:
    """temperature^2 * KL of the student from the mean of the teachers' probabilities, summed over heads.

    Logits are [rows, classes], or [rows, tokens, classes], of which tokens that are padding do not count.
    """
    losses = []
    for name, own in logits.items():
        given = [answers[name] for answers in teachers if name in answers]
        if given:
            one = torch.ones(len(own), dtype=torch.bool, device=own.device)
            counted = tokens_of(own, lengths).flatten() if own.ndim == 3 else one
            flat = [each.flatten(0, -2) for each in given]
            losses.append(mean_loss(own.flatten(0, -2), counted, divergence(flat, temperature)))
    return torch.stack(losses).sum()


def divergence(given: Sequence[Tensor], temperature: float) -> PartLoss:
    """temperature^2 * KL of rows from the mean of the probabilities of the teachers' logits [n, classes]."""

    def loss_of(part: slice, own: Tensor) -> tuple[Tensor, Tensor]:
        wanted = (given[0][part].float() / temperature).softmax(dim=-1)
        for more in given[1:]:
            wanted += (more[part].float() / temperature).softmax(dim=-1)
        wanted /= len(given)
        found = (own / temperature).log_softmax(dim=-1)
        # A probability of 0 has no share in the sum, and its logarithm must not be infinite.
        terms = wanted.clamp_min(1e-30).log_().sub_(found).mul_(wanted)
        slopes = found.exp_().sub_(wanted).mul_(temperature)
        return temperature**2 * terms.sum(dim=-1), slopes

    return loss_of


def cosine_loss(states: Tensor, wanted: Tensor, lengths: Tensor) -> Tensor:
    """1 less the cosine of two sets of hidden states [rows, tokens, width], of tokens that are no padding."""
    inside = tokens_of(states, lengths)
    cosines = F.cosine_similarity(states[inside].float(), wanted[inside].float(), dim=-1)
    return 1 - cosines.mean()


def tokens_of(states: Tensor, lengths: Tensor) -> Tensor:
    """[rows, tokens] bool of [rows, tokens, ...]: where a row has a token."""
    return torch.arange(states.shape[1], device=states.device) < lengths[:, None]


def spread(layers: int, count: int) -> list[int]:
    """`count` of `layers` layers, as even as can be, the first and the last among them."""
    if not 1 <= count <= layers:
        raise ValueError(
            f"layers: {count}: the teacher has {layers}, and the student has 1 to {layers} of them"
        )
    return [round(place * (layers - 1) / max(1, count - 1)) for place in range(count)]
