"""What every kind of model gives to the loop: batches, a loss, held-out figures and a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor

from train.batching import Batch, EpochBatches
from train.trainer import Figures, Loop, fit


class Training(Protocol):
    """A model with the rows that it learns from. Distillation and recipes replace batches or loss."""

    @property
    def module(self) -> torch.nn.Module:
        """What is trained: the model, with auxiliary heads if it has some."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def batches(self) -> EpochBatches: ...

    def loss(self, batch: Batch) -> Tensor:
        """The mean loss of a batch, a scalar."""

    def figures(self, rows: Sequence[Any]) -> dict[str, float]:
        """Held-out figures by name; sets the model to evaluation mode."""

    def score(self, figures: Figures) -> float:
        """One number of the figures: the larger, the better."""

    def save(self, out: Path) -> None:
        """Write the checkpoint folder."""


def train_on(training: Training, held_out: Sequence[Any], loop: Loop) -> Figures:
    """Train in place; ends with the weights that are best on `held_out`, whose figures are returned."""
    return fit(
        training.module,
        training.batches,
        training.loss,
        lambda: training.figures(held_out),
        loop,
        score=training.score,
    )
