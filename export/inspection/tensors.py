"""What safetensors files hold, by their headers alone."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from export.checkpoint.tensors import TensorEntry, read_header
from export.reading import parse_json_object

LARGEST = 5  # tensors that are named


@dataclass(frozen=True, slots=True)
class TensorFacts:
    name: str
    shape: tuple[int, ...]
    dtype: str  # as the file spells it: F32, F16, BF16, I8, ...
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
    """Sum up safetensors files; raises CheckpointError for a damaged one."""
    entries: list[tuple[str, TensorEntry]] = []
    metadata: dict[str, str] = {}
    for path in paths:
        entries += read_header(path).items()
        metadata |= _metadata(path)
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


def _metadata(path: Path) -> dict[str, str]:
    """What the writer noted; `read_header` has bounded the header and found it sound."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        noted = parse_json_object(file.read(length), path.name).get("__metadata__")
    return {key: str(value) for key, value in noted.items()} if isinstance(noted, dict) else {}
