"""The training loop of all recipes: scheduled steps under bf16 autocast, and the best weights are kept."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from train.optimization import JointOptimizer, Schedule, make_optimizer

log = logging.getLogger(__name__)

LOG_STEPS = 100  # between two lines of the log
Batch = TypeVar("Batch")
Figures = Mapping[str, float]  # held-out figures by their names


def sum_of(figures: Figures) -> float:
    """The score of figures that are better the larger they are."""
    return sum(figures.values())


def fit(
    model: torch.nn.Module,
    parts: Iterable[Iterable[Batch]],
    loss_of: Callable[[Batch], Tensor],
    evaluate: Callable[[], Figures],
    schedule: Schedule,
    *,
    score: Callable[[Figures], float] = sum_of,
    auxiliary: torch.optim.Optimizer | None = None,
    on_better: Callable[[], None] | None = None,
) -> Figures:
    """Train `model` in place; it ends with the weights of the best figures, which are returned.

    `parts` are batches between two evaluations: an epoch, or some steps. They are drawn lazily, so that a
    part is made after the evaluation before it. `auxiliary` updates weights outside of `model` at its own
    constant rate. `on_better` is called with the best weights in place. Raises ValueError where no part has a
    score that is a number.
    """
    optimizer = make_optimizer(model, schedule)
    peaks = [group["lr"] for group in optimizer.param_groups]
    progress, best = _Progress(), _Best(model, score)
    for part in parts:
        model.train()
        for batch in part:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(batch)
            _take_step(model, loss, optimizer, peaks, schedule, progress.steps)
            if auxiliary is not None:
                auxiliary.step()
                auxiliary.zero_grad()
            progress.add(loss)
        figures = evaluate()
        progress.log_figures(figures)
        if best.replaced_by(figures) and on_better is not None:
            on_better()
    return best.restored()


def _take_step(
    model: torch.nn.Module,
    loss: Tensor,
    optimizer: JointOptimizer,
    peaks: Sequence[float],
    schedule: Schedule,
    step: int,
) -> None:
    """One update: gradients of `loss`, clipped, at the learning rates of `step`."""
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak * schedule.factor(step)
    optimizer.step()
    optimizer.zero_grad()


class _Best:
    """The best figures so far, and the weights that gave them."""

    def __init__(self, model: torch.nn.Module, score: Callable[[Figures], float]) -> None:
        self._model = model
        self._score = score
        self._best = -math.inf
        self._figures: Figures | None = None
        self._state: dict[str, Any] = {}

    def replaced_by(self, figures: Figures) -> bool:
        """Keep the present weights where their figures are better than all before."""
        if not self._score(figures) > self._best:
            return False
        self._figures, self._best = figures, self._score(figures)
        self._state = copy.deepcopy(self._model.state_dict())
        return True

    def restored(self) -> Figures:
        """Put the best weights back. Raises ValueError where there are none."""
        if self._figures is None:
            raise ValueError("training diverged: no held-out score is a number")
        self._model.load_state_dict(self._state)
        return self._figures


class _Progress:
    """Counts the steps and logs them."""

    def __init__(self) -> None:
        self.steps = 0
        self._loss = torch.tensor(math.nan)
        self._begin = time.monotonic()

    def add(self, loss: Tensor) -> None:
        """A step was taken."""
        self.steps += 1
        self._loss = loss.detach()
        if self.steps % LOG_STEPS == 0:
            speed = self.steps / (time.monotonic() - self._begin)
            log.info("step %d loss %.3f %.2f steps/s", self.steps, loss.item(), speed)

    def log_figures(self, figures: Figures) -> None:
        named = " ".join(f"{name} {figure:.4f}" for name, figure in figures.items())
        log.info("step %d loss %.3f held-out %s", self.steps, self._loss.item(), named)
