"""Optimizers, their schedule, and the precision of a step.

Muon (https://kellerjordan.github.io/posts/muon/) updates the matrices of the blocks, AdamW all other weights.
Learning rates have a linear warm-up, a cosine decay and an optional linear cool-down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


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


def make_optimizer(model: torch.nn.Module, schedule: Schedule) -> "JointOptimizer":
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": schedule.weight_decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=schedule.other_rate, betas=(0.9, 0.95), fused=True)
    if not matrices:
        return JointOptimizer([adamw])
    muon = torch.optim.Muon(
        matrices,
        lr=schedule.matrix_rate,
        weight_decay=schedule.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return JointOptimizer([muon, adamw])


class JointOptimizer(torch.optim.Optimizer):
    """Several optimizers that step as one; `param_groups` are the groups of all of them."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self._parts for group in part.param_groups]


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The type for autocast, None for fp32. Raises ValueError for an unknown precision, or fp16 on a CPU."""
    if precision not in ("auto", "fp32", "bf16", "fp16"):
        raise ValueError(f"precision is {precision!r}, it must be auto, fp32, bf16 or fp16")
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("precision fp16 needs a GPU; a CPU trains in bf16 or fp32")
    if precision == "auto":
        # A GPU before Ampere only emulates bf16, slower than it computes in fp32.
        on_gpu = device.type == "cuda"
        capable = (
            torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _cpu_computes_in_bf16()
        )
        precision = "bf16" if capable else "fp32"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _cpu_computes_in_bf16() -> bool:
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
