"""How long a run will take and how much memory it needs, measured on a few steps before it."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import torch

from train.batching import Batch
from train.optimization import autocast_type, make_optimizer
from train.trainer import Loop
from train.training import Training

TRIALS = 3  # steps that are measured, after a first one


@dataclass(frozen=True)
class Estimate:
    """Seconds of the run's steps and evaluations, and bytes of memory: of the GPU, or of this process."""

    steps: int
    seconds_of_step: float
    evaluations: int
    seconds_of_evaluation: float
    memory: int
    device: str

    @property
    def seconds(self) -> float:
        return self.steps * self.seconds_of_step + self.evaluations * self.seconds_of_evaluation

    def __str__(self) -> str:
        steps = f"{self.steps:,} steps of {self.seconds_of_step:.3f} s"
        evaluations = f"{self.evaluations} evaluations of {self.seconds_of_evaluation:.1f} s"
        memory = f"{self.memory / 1e6:,.0f} MB"
        return f"about {in_words(self.seconds)} on {self.device}: {steps}, {evaluations}; memory {memory}"


def in_words(seconds: float) -> str:
    """90 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def estimate(training: Training, loop: Loop, held_out: int) -> Estimate:
    """Take a few steps at a learning rate of zero: they change no weight, and the random state is put back.

    The longest of the first batches is among them. An evaluation of `held_out` rows is taken as forward
    passes, each a third of a step.
    """
    module, device = training.module, device_of(loop)
    module.to(device)
    random = torch.random.get_rng_state(), torch.cuda.get_rng_state_all()
    batches = sorted((training.batches[i] for i in range(len(training.batches))), key=_tokens)
    optimizer = make_optimizer(module, loop.schedule)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    autocast = autocast_type(loop.precision, device)
    spread = [batches[-1], *(batches[(2 * n + 1) * len(batches) // (2 * TRIALS)] for n in range(TRIALS))]
    begin = 0.0
    module.train()
    for number, batch in enumerate(spread):
        if number == 1:
            begin = time.perf_counter()
        for _ in range(loop.accumulation):
            moved = {name: value.to(device) for name, value in batch.items()}
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                loss = training.loss(moved)
            torch.autograd.backward(loss)
        if autocast is torch.float16:  # not scaled as in the run, so some may be no finite numbers
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        optimizer.step()
        optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - begin) / TRIALS
    torch.random.set_rng_state(random[0])
    torch.cuda.set_rng_state_all(random[1])
    rows = len(next(iter(batches[0].values()))) * loop.accumulation
    return Estimate(
        steps=loop.schedule.steps,
        seconds_of_step=seconds,
        evaluations=-(-loop.schedule.steps // loop.evaluate_every),
        seconds_of_evaluation=seconds / 3 * held_out / rows,
        memory=_peak(device),
        device=_name(device),
    )


def device_of(loop: Loop) -> torch.device:
    """Where the loop runs."""
    return torch.device("cuda" if loop.device != "cpu" and torch.cuda.is_available() else "cpu")


def _tokens(batch: Batch) -> int:
    return batch["rows"].numel()


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads of the CPU"
