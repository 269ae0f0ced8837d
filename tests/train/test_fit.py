"""The training loop: the best weights are kept, whatever comes after them."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from train.fit import fit
from train.optimization import Schedule

SCHEDULE = Schedule(steps=6, warmup=1)


class Blocks(torch.nn.Module):
    """One matrix inside of a block, for Muon, and weights outside, for AdamW."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.transformer = torch.nn.ModuleDict({"h": torch.nn.ModuleList([torch.nn.Linear(4, 4)])})
        self.bias = torch.nn.Parameter(torch.ones(4))
        self.outer = torch.nn.Parameter(torch.ones(4, 4))

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.get_submodule("transformer.h.0")(rows) @ self.outer + self.bias
        return found


def parts(count: int, steps: int) -> Iterator[list[Tensor]]:
    for _ in range(count):
        yield [torch.ones(2, 4)] * steps


def test_it_ends_with_the_weights_of_the_best_figures() -> None:
    model = Blocks()
    figures = iter([0.2, 0.9, 0.5])
    seen: list[Tensor] = []
    better: list[int] = []

    def evaluate() -> dict[str, float]:
        seen.append(model.bias.detach().clone())
        model.eval()
        return {"accuracy": next(figures)}

    def loss_of(rows: Tensor) -> Tensor:
        assert model.training
        loss: Tensor = model(rows).square().mean()
        return loss

    best = fit(model, parts(3, 2), loss_of, evaluate, SCHEDULE, on_better=lambda: better.append(len(seen)))
    assert best == {"accuracy": 0.9}
    assert better == [1, 2]
    assert torch.equal(model.bias, seen[1])
    assert not torch.equal(model.bias, seen[2])


def test_a_figure_may_be_better_the_smaller_it_is() -> None:
    figures = iter([3.0, math.nan, 1.0, 2.0])
    best = fit(
        model := Blocks(),
        parts(4, 1),
        lambda rows: model(rows).square().mean(),
        lambda: {"perplexity": next(figures)},
        SCHEDULE,
        score=lambda found: -found["perplexity"],
    )
    assert best == {"perplexity": 1.0}


def test_weights_outside_of_the_model_are_updated_too() -> None:
    model, outside = Blocks(), torch.nn.Parameter(torch.zeros(4))
    fit(
        model,
        parts(1, 2),
        lambda rows: (model(rows) + outside).square().mean(),
        lambda: {"accuracy": 1.0},
        SCHEDULE,
        auxiliary=torch.optim.SGD([outside], lr=0.1),
    )
    assert (outside != 0).all()
    assert outside.grad is None


def test_a_training_that_diverges_says_so() -> None:
    model = Blocks()
    with pytest.raises(ValueError, match="diverged"):
        fit(
            model,
            parts(2, 1),
            lambda rows: model(rows).square().mean(),
            lambda: {"accuracy": math.nan},
            SCHEDULE,
        )
