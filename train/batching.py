"""Batches: sequences of similar length, padded on the right, and the batches of one epoch."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Batch = Mapping[str, Tensor]
_CHUNK = 64


def length_buckets(
    lengths: Sequence[int], batch: int, generator: np.random.Generator | None = None
) -> Iterator[list[int]]:
    """Indices in batches of similar length: in random order with a generator, else sorted by length."""
    order = np.arange(len(lengths)) if generator is None else generator.permutation(len(lengths))
    chunk = len(order) if generator is None else batch * _CHUNK
    batches: list[list[int]] = []
    for start in range(0, len(order), chunk):
        part = sorted(order[start : start + chunk].tolist(), key=lambda index: lengths[index])
        batches.extend(part[first : first + batch] for first in range(0, len(part), batch))
    if generator is not None:
        batches = [batches[index] for index in generator.permutation(len(batches))]
    yield from batches


def pad(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """[rows, longest] int64."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


class EpochBatches(Dataset[Batch]):
    """The batches of one epoch, made by `make(epoch)`. Each epoch must have `count` of them."""

    def __init__(self, make: Callable[[int], Sequence[Batch]], count: int) -> None:
        self._make = make
        self._count = count
        self._epoch = 0
        self._batches: Sequence[Batch] | None = None

    def set_epoch(self, epoch: int) -> None:
        """The next batches are those of `epoch`, counted from 0."""
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Batch:
        if self._batches is None:
            self._batches = self._make(self._epoch)
            if len(self._batches) != self._count:
                raise ValueError(f"epoch {self._epoch} has {len(self._batches)} batches, not {self._count}")
        return self._batches[index]
