"""Subtract the mean row of the vocabulary from all its rows before they are rounded to float16.

Softmax does not change when a number is added to every logit, and trained models add a large one: GPT-2's
logits are around -100, where float16 has steps of 1/16. Without the mean row they are around 0, where steps
are finer. A tied table is also the embedding; there the mean row is added to the position table instead.

    logits = hidden @ (table - mean).T           every logit less the same number
    x = (wte - mean)[ids] + (wpe + mean)[...]    unchanged
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.checkpoint.config import Head
from export.checkpoint.folder import Checkpoint, DerivedCheckpoint


class CenteredCheckpoint(DerivedCheckpoint):
    """A language model whose probabilities are the same and whose logits are near zero."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self._table = "wte.weight" if self.config.tied else "lm_head.weight"
        self._mean: NDArray[np.float32] | None = None  # [hidden]

    def weight(self, name: str) -> NDArray[np.float32]:
        weight = self._plain.weight(name)
        if self.config.head is not Head.LM:
            return weight
        if name == self._table:
            return np.subtract(weight, self._mean_row())
        if name == "wpe.weight" and self.config.tied:
            return np.add(weight, self._mean_row())
        return weight

    def _mean_row(self) -> NDArray[np.float32]:
        if self._mean is None:
            self._mean = self._plain.weight(self._table).mean(axis=0)
        return self._mean
