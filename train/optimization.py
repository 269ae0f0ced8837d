"""Optimizers and their schedule.

Muon (https://kellerjordan.github.io/posts/muon/) updates the matrices of the blocks, AdamW all other weights.
Learning rates have a linear warm-up, a cosine decay and an optional linear cool-down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """Step counts and rates of one run: warm-up, cosine decay towards `horizon`, linear cool-down to zero."""

    steps: int
    warmup: int = 100
    # The step at which the cosine would reach zero; the end of the run unless a cool-down cuts it short.
    horizon: int | None = None
    cooldown: int = 1
    matrix_rate: float = 5e-3
    other_rate: float = 3e-3
    weight_decay: float = 0.1
    clip: float = 1.0

    def factor(self, step: int) -> float:
        """Learning rate at `step` as a share of the peak."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        horizon = self.horizon or self.steps
        progress = (step - self.warmup) / max(1, horizon - self.warmup)
        left = max(0, self.steps - step) / self.cooldown
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress))) * min(1.0, left)


def make_optimizers(model: torch.nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(
        matrices,
        lr=schedule.matrix_rate,
        weight_decay=schedule.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": schedule.weight_decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=schedule.other_rate, betas=(0.9, 0.95), fused=True)
    optimizers: list[torch.optim.Optimizer] = [muon, adamw]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def set_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Set every learning rate to `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor


def take_step(
    model: torch.nn.Module,
    loss: Tensor,
    optimizers: Sequence[torch.optim.Optimizer],
    schedule: Schedule,
    step: int,
) -> None:
    """One update: gradients of `loss`, clipped, at the learning rates of `step`."""
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
    set_rates(optimizers, schedule.factor(step))
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
