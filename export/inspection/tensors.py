"""The content of safetensors files, from their headers alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from export.checkpoint.tensors import TensorEntry, read_header

LARGEST = 5  # tensors that are listed


@dataclass(frozen=True, slots=True)
class TensorFacts:
    name: str
    shape: tuple[int, ...]
    dtype: str  # as in the file: F32, F16, BF16, I8, ...
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """The tensors of one file, or of all files of a checkpoint."""

    what: ClassVar[str] = "weights"

    name: str
    tensors: int
    parameters: int  # numbers of every tensor, masks and tied copies included
    sizes: dict[str, int]  # bytes of each dtype
    largest: tuple[TensorFacts, ...]
    metadata: dict[str, str]


def inspect_weights(paths: Sequence[Path], name: str) -> WeightFacts:
    """Summarize safetensors files; raises CheckpointError for a damaged one."""
    entries: list[tuple[str, TensorEntry]] = []
    metadata: dict[str, str] = {}
    for path in paths:
        header = read_header(path)
        entries += header.entries.items()
        metadata |= header.metadata
    sizes: Counter[str] = Counter()
    for _, entry in entries:
        sizes[entry.dtype] += entry.end - entry.start
    entries.sort(key=lambda item: item[1].end - item[1].start, reverse=True)
    return WeightFacts(
        name=name,
        tensors=len(entries),
        parameters=sum(math.prod(entry.shape) for _, entry in entries),
        sizes=dict(sizes.most_common()),
        largest=tuple(
            TensorFacts(tensor, entry.shape, entry.dtype, entry.end - entry.start)
            for tensor, entry in entries[:LARGEST]
        ),
        metadata=metadata,
    )
