"""Batches of sequences of similar length, padded on the right."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

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
