"""Structured pruning: whole attention heads and MLP neurons go, and the model becomes smaller and faster.

A unit's importance is how much the loss would change without it, to first order: the product of its
activation and the loss's gradient there, summed over the tokens of a row, as an absolute value, averaged over
rows. Sources: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, 2017
(arXiv 1611.06440), for neurons; Michel, Levy and Neubig, Are Sixteen Heads Really Better than One?, 2019
(arXiv 1905.10650), for heads, where it is the gradient of a gate on the head's output. Layers are compared
after each layer's importances were divided by their root sum of squares, as both papers do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Model
from transformers.pytorch_utils import Conv1D

from train.batching import Batch

# Neurons go in groups of this number, which is what a register of the kernels holds. The time of a step
# follows the width itself; no larger group was faster (train/RESULTS.md).
NEURON_STEP = 16


class Criterion(str, Enum):
    TAYLOR = "taylor"
    ACTIVATION = "activation"  # the mean absolute activation alone


class Ranking(str, Enum):
    GLOBAL = "global"  # over all layers: each loses what matters least
    LAYER = "layer"  # each layer loses the same share


@dataclass
class Importance:
    """Of each layer's heads and neurons, in their order."""

    heads: list[Tensor] = field(default_factory=list)  # [heads] float64 of each layer
    neurons: list[Tensor] = field(default_factory=list)  # [neurons]


@dataclass(frozen=True)
class Shares:
    """What goes: shares of all heads and of all neurons, 0 to below 1."""

    heads: float
    neurons: float
    ranking: Ranking = Ranking.GLOBAL
    neuron_step: int = NEURON_STEP

    def __post_init__(self) -> None:
        for name in ("heads", "neurons"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}: a share from 0 to below 1 is needed")
        if self.neuron_step < 1:
            raise ValueError(f"neuron step: {self.neuron_step}: at least 1 is needed")


def measure_importance(
    model: torch.nn.Module,
    loss_of: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    criterion: Criterion = Criterion.TAYLOR,
) -> Importance:
    """Of the heads and neurons of `model.transformer`, over `batches`; `loss_of` is the mean loss of one.

    The model ends in evaluation mode and without gradients.
    """
    body: Any = model.transformer
    sums = Importance(
        [torch.zeros(block.attn.num_heads, dtype=torch.float64) for block in body.h],
        [torch.zeros(block.mlp.c_fc.nf, dtype=torch.float64) for block in body.h],
    )
    model.eval()
    with _watched(body, sums, criterion):
        for batch in batches:
            loss = loss_of(batch)
            torch.autograd.backward(loss)
            model.zero_grad(set_to_none=True)
    return sums


@contextmanager
def _watched(body: GPT2Model, sums: Importance, criterion: Criterion) -> Iterator[None]:
    """Add up what the second matrix of each half of a block reads, which is the output of its units."""
    hooks = []
    try:
        for block, heads, neurons in zip(body.h, sums.heads, sums.neurons, strict=True):
            for matrix, total in ((block.attn.c_proj, heads), (block.mlp.c_proj, neurons)):
                hooks.append(matrix.register_forward_pre_hook(_adder(total, criterion)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _adder(total: Tensor, criterion: Criterion) -> Callable[[torch.nn.Module, tuple[Tensor]], None]:
    def add(shares: Tensor) -> None:
        """`shares` [rows, tokens, width]: what each activation adds to its row's loss."""
        units = shares.double().reshape(*shares.shape[:2], len(total), -1)
        total.add_(units.sum(dim=(1, 3)).abs().sum(dim=0).cpu())

    def watch(module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        activation = inputs[0]
        if criterion is Criterion.ACTIVATION:
            add(activation.detach().abs())
        elif activation.requires_grad:
            activation.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: add(activation.detach() * gradient)
            )

    return watch


def kept_units(importance: Importance, shares: Shares) -> tuple[list[Tensor], list[Tensor]]:
    """The indices, in order, of the heads and of the neurons that stay in each layer.

    Every layer keeps at least one head and one group of neurons. Neurons go in whole groups, the least
    important first, until the share is reached.
    """
    heads, neurons = _normal(importance.heads), _normal(importance.neurons)
    if shares.ranking is Ranking.GLOBAL:
        return _kept(heads, shares.heads, 1), _kept(neurons, shares.neurons, shares.neuron_step)
    return (
        [_kept([layer], shares.heads, 1)[0] for layer in heads],
        [_kept([layer], shares.neurons, shares.neuron_step)[0] for layer in neurons],
    )


def _normal(layers: Sequence[Tensor]) -> list[Tensor]:
    return [layer / layer.norm().clamp_min(torch.finfo(layer.dtype).tiny) for layer in layers]


def _kept(layers: Sequence[Tensor], share: float, step: int) -> list[Tensor]:
    """What stays in each layer where `share` of all units goes, in groups of `step` units of a layer."""
    orders = [layer.argsort(descending=True, stable=True) for layer in layers]
    groups = [
        (float(layer[order[first : first + step]].mean()), number, first)
        for number, (layer, order) in enumerate(zip(layers, orders, strict=True))
        for first in range(step, len(layer), step)
    ]
    left = [len(layer) for layer in layers]
    wanted = round(share * sum(left))
    for _, number, first in sorted(groups, key=lambda group: (group[0], -group[2])):
        if sum(map(len, layers)) - sum(left) >= wanted:
            break
        left[number] = min(left[number], first)
    return [order[:count].sort().values for order, count in zip(orders, left, strict=True)]


@torch.no_grad()
def cut(body: Any, heads: Sequence[Tensor], neurons: Sequence[Tensor]) -> None:
    """Keep only these heads and neurons of each layer of a GPT2Model, and say so in its config."""
    for block, some_heads, some_neurons in zip(body.h, heads, neurons, strict=True):
        attention, size = block.attn, block.attn.head_dim
        inside = (some_heads[:, None] * size + torch.arange(size)).flatten()
        packed = torch.cat([inside + part * attention.split_size for part in range(3)])
        attention.c_attn = _columns(attention.c_attn, packed)
        attention.c_proj = _rows(attention.c_proj, inside)
        attention.num_heads, attention.split_size = len(some_heads), len(inside)
        block.mlp.c_fc = _columns(block.mlp.c_fc, some_neurons)
        block.mlp.c_proj = _rows(block.mlp.c_proj, some_neurons)
    body.config.layer_heads = [len(some) for some in heads]
    body.config.layer_neurons = [len(some) for some in neurons]


def _columns(old: Conv1D, kept: Tensor) -> Conv1D:
    return _conv(old.weight[:, kept], old.bias[kept])


def _rows(old: Conv1D, kept: Tensor) -> Conv1D:
    return _conv(old.weight[kept], old.bias)


def _conv(weight: Tensor, bias: Tensor) -> Conv1D:
    made = Conv1D(weight.shape[1], weight.shape[0]).to(weight.device, weight.dtype)
    made.weight.copy_(weight)
    made.bias.copy_(bias)
    return made
