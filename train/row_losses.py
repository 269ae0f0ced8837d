"""Means of a loss over rows of logits, some rows at a time.

A vocabulary makes logits of many megabytes, and a loss on them written out in torch goes through copies in
fp32 a dozen times. Here some rows at a time, which fit into a cache, become their loss and its gradient; the
gradient alone is kept, in the type of the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Logits that are computed with at once: what a core's cache holds, or no small part of a GPU's work.
AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 26}

# The losses [rows] of a part of the rows, and their gradient [rows, classes], from the part's logits in fp32.
PartLoss = Callable[[slice, Tensor], tuple[Tensor, Tensor]]


def mean_loss(logits: Tensor, counted: Tensor, loss_of: PartLoss) -> Tensor:
    """The mean of `loss_of` over the rows of logits [n, classes] that are `counted` [n] bool, a scalar."""
    loss: Tensor = _MeanLoss.apply(logits, counted, loss_of)  # type: ignore[no-untyped-call]
    return loss


def cross_entropy(logits: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """The mean negative log probability (nats) of `targets` [n], those of rows that are `counted`."""

    def loss_of(part: slice, own: Tensor) -> tuple[Tensor, Tensor]:
        wanted = targets[part, None]
        found = own.log_softmax(dim=-1)
        losses = -found.gather(1, wanted)[:, 0]
        gradient = found.exp_()
        gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, -1.0))
        return losses, gradient

    return mean_loss(logits, counted, loss_of)


class _MeanLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, counted: Tensor, loss_of: PartLoss) -> Tensor:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), device=logits.device)
        step = max(1, AT_ONCE.get(logits.device.type, AT_ONCE["cpu"]) // logits.shape[1])
        for start in range(0, len(logits), step):
            part = slice(start, start + step)
            losses, slopes = loss_of(part, logits[part].float())
            total += losses.masked_fill_(~counted[part], 0.0).sum()
            if gradient is not None:
                gradient[part] = slopes.mul_(counted[part, None])
        ctx.count = counted.sum()
        ctx.save_for_backward(gradient)
        mean: Tensor = total / ctx.count
        return mean

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (upstream / ctx.count), None, None
