"""Move outliers from activations into weights before int8 quantization, at no cost when the model runs.

A channel that is far from zero, or much wider than the others, would use up the 256 steps of a row. So each
channel is shifted and scaled, and the matrices on both sides get the inverse: the model computes the same
function (SmoothQuant, arXiv 2211.10438; Outlier Suppression+, arXiv 2304.09145).

    ln_1 ----- c_attn          weight and bias of the norm against the rows of the matrix
    ln_2 ----- c_fc
    c_attn's values ----- attn.c_proj    softmax weights add up to 1, so a shift passes attention unchanged
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.checkpoint.config import ModelConfig
from export.checkpoint.folder import Checkpoint, DerivedCheckpoint
from export.quantization.activations import open_activations
from export.session import Floats

# The exponent of a channel's width that moves into the matrix; SmoothQuant found the square root best.
STRENGTH = 0.5
LARGEST_CHANGE = 100.0


@dataclass(frozen=True, slots=True)
class Range:
    """Smallest and largest value of each channel, `[channels]`."""

    low: Floats
    high: Floats


def watched_tensors(config: ModelConfig) -> list[str]:
    """Names of the activations in the graph that can be smoothed."""
    ends = ("ln_1.out", "ln_2.out", "attn.flat.out")
    return [f"h.{layer}.{end}" for layer in range(config.num_layers) for end in ends]


def measure_ranges(graph: Path, rows: list[list[int]], config: ModelConfig) -> dict[str, Range]:
    """Run the fp32 graph; the ranges of the activations that can be smoothed, over `rows` of token ids."""
    names = watched_tensors(config)
    with open_activations(graph, names, config) as reader:
        return find_ranges(reader.runs(names, rows), config)


def find_ranges(runs: Iterable[Mapping[str, Floats]], config: ModelConfig) -> dict[str, Range]:
    """Ranges over several runs of the watched tensors, `[tokens, channels]` each."""
    ranges: dict[str, Range] = {}
    for run in runs:
        for name, values in run.items():
            if name.endswith("attn.flat.out"):  # heads may be padded
                heads = values.reshape(len(values), -1, config.architecture.head_size)
                values = heads[:, :, : config.head_size].reshape(len(values), -1)
            low, high = values.min(axis=0), values.max(axis=0)
            if name in ranges:
                low, high = np.minimum(low, ranges[name].low), np.maximum(high, ranges[name].high)
            ranges[name] = Range(low, high)
        del run, values  # free them before the next run
    return ranges


class SmoothedCheckpoint(DerivedCheckpoint):
    """A checkpoint whose weights are changed so that the same function has narrower activations."""

    def __init__(self, checkpoint: Checkpoint, ranges: Mapping[str, Range]) -> None:
        super().__init__(checkpoint)
        self._ranges = ranges

    def weight(self, name: str) -> Floats:
        weight = self._plain.weight(name)
        path, _, part = name.rpartition(".")
        block, _, module = path.partition(".ln_")
        if module and block:
            shift, scale = self._fold(block, f"ln_{module}")
            return weight / scale if part == "weight" else (weight - shift) / scale
        for module, source in (("attn.c_attn", "ln_1"), ("mlp.c_fc", "ln_2"), ("attn.c_proj", "attn.flat")):
            if path.startswith("h.") and path.endswith(module):
                return self._consume(path.removesuffix(f".{module}"), source, name, weight)
        return weight

    def _consume(self, block: str, source: str, name: str, weight: Floats) -> Floats:
        """Apply the inverse of the change of `source` to the matrix or bias that reads it."""
        shift, scale = self._fold(block, source)
        if name.endswith(".weight"):
            weight = weight * scale[:, None]
        else:
            weight = weight + shift @ self._plain.weight(name.removesuffix("bias") + "weight")
        if source == "ln_1":  # the last third of c_attn makes the values, which c_proj reads
            shift, scale = self._fold(block, "attn.flat")
            values = slice(-len(scale), None)
            weight = weight.copy()
            weight[..., values] = (weight[..., values] - (shift if weight.ndim == 1 else 0)) / scale
        return np.asarray(weight, np.float32)

    def _fold(self, block: str, source: str) -> tuple[Floats, Floats]:
        """Shift and scale of each channel of an activation, `[channels]`."""
        reader = {"ln_1": "attn.c_attn", "ln_2": "mlp.c_fc", "attn.flat": "attn.c_proj"}[source]
        found = self._ranges[f"{block}.{source}.out"]
        shift = (found.high + found.low) / 2
        width = (found.high - found.low) / 2
        matrix = np.abs(self._plain.weight(f"{block}.{reader}.weight")).max(axis=1)
        usable = (width > 0) & (matrix > 0)
        ratio = np.divide(width, matrix, out=np.ones_like(width), where=usable) ** np.float32(STRENGTH)
        scale = ratio / np.exp(np.log(ratio).mean())
        return shift, np.clip(scale, 1 / LARGEST_CHANGE, LARGEST_CHANGE).astype(np.float32)
