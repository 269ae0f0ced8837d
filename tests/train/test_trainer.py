"""The loop: best weights, early stopping, accumulation, and runs that are killed and continued."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from train.batching import Batch, EpochBatches
from train.optimization import Schedule, autocast_type
from train.trainer import BEST, METRICS, Figures, Loop, fit

ROWS = 4


class Blocks(torch.nn.Module):
    """One matrix inside of a block, for Muon, weights outside, for AdamW, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.transformer = torch.nn.ModuleDict({"h": torch.nn.ModuleList([torch.nn.Linear(4, 4)])})
        self.bias = torch.nn.Parameter(torch.ones(4))
        self.outer = torch.nn.Parameter(torch.ones(4, 4))
        self.dropout = torch.nn.Dropout(0.25)

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.dropout(self.get_submodule("transformer.h.0")(rows)) @ self.outer + self.bias
        return found

    def loss(self, batch: Batch) -> Tensor:
        loss: Tensor = self(batch["rows"]).float().square().mean()
        return loss


def batches_of(count: int) -> EpochBatches:
    """Batches that differ by epoch and index."""

    def make(epoch: int) -> list[Batch]:
        generator = np.random.default_rng((7, epoch))
        return [{"rows": torch.tensor(generator.normal(size=(ROWS, 4))).float()} for _ in range(count)]

    return EpochBatches(make, count)


def loop_in(folder: Path, steps: int, every: int, **changed: Any) -> Loop:
    return Loop(folder, Schedule(steps, warmup=1), every, **{"log_every": 1, "precision": "fp32", **changed})


def figures_from(values: Iterator[float], model: Blocks, seen: list[Tensor]) -> Callable[[], Figures]:
    def evaluate() -> Figures:
        assert not model.training
        seen.append(model.bias.detach().clone())
        return {"accuracy": next(values)}

    return evaluate


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def test_it_ends_with_the_weights_of_the_best_figures(tmp_path: Path) -> None:
    model, seen = Blocks(), list[Tensor]()
    evaluate = figures_from(iter([0.2, 0.9, 0.5, 0.4]), model, seen)
    best = fit(model, batches_of(3), model.loss, evaluate, loop_in(tmp_path, 7, 2))
    assert best == {"accuracy": 0.9}
    assert torch.equal(model.bias, seen[1])
    assert not torch.equal(model.bias, seen[2])
    evaluated = [line["step"] for line in lines_of(tmp_path) if "eval_accuracy" in line]
    # After each interval, and after the last step.
    assert evaluated == [2, 4, 6, 7]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-7"]


def test_a_figure_may_be_better_the_smaller_it_is(tmp_path: Path) -> None:
    model = Blocks()
    evaluate = figures_from(iter([3.0, math.nan, 1.0, 2.0]), model, [])
    best = fit(
        model, batches_of(4), model.loss, evaluate, loop_in(tmp_path, 4, 1), score=lambda f: -f["accuracy"]
    )
    assert best == {"accuracy": 1.0}
    # A figure that is no number is null in the file, which stays valid JSON.
    assert "NaN" not in (tmp_path / METRICS).read_text()


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    model = Blocks()
    with pytest.raises(ValueError, match="diverged"):
        fit(model, batches_of(2), model.loss, lambda: {"accuracy": math.nan}, loop_in(tmp_path, 2, 1))


def test_it_stops_early_and_a_stopped_run_does_not_go_on(tmp_path: Path) -> None:
    model, seen = Blocks(), list[Tensor]()
    loop = loop_in(tmp_path, 20, 2, patience=2)
    evaluate = figures_from(iter([0.5, 0.4, 0.5]), model, seen)
    assert fit(model, batches_of(3), model.loss, evaluate, loop) == {"accuracy": 0.5}
    assert torch.equal(model.bias, seen[0])
    again = Blocks()
    assert fit(again, batches_of(3), again.loss, evaluate, loop) == {"accuracy": 0.5}
    assert torch.equal(again.bias, seen[0])
    assert max(line["step"] for line in lines_of(tmp_path)) == 6


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path) -> None:
    single = batches_of(2)
    halves = [single[0]["rows"], single[1]["rows"]]
    whole = EpochBatches(lambda _: [{"rows": torch.cat(halves)}], 1)
    found = []
    for batches, accumulation in ((single, 2), (whole, 1)):
        model = Blocks()
        model.dropout.p = 0.0
        loop = loop_in(tmp_path / str(accumulation), 1, 1, accumulation=accumulation)
        fit(model, batches, model.loss, lambda: {"accuracy": 1.0}, loop)
        found.append(model.outer.detach())
    assert torch.allclose(found[0], found[1], atol=1e-6)
    assert not torch.allclose(found[0], torch.ones(4, 4), atol=1e-4)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    model = Blocks()
    fit(model, batches_of(1), model.loss, lambda: {"accuracy": 1.0}, loop_in(tmp_path, 1, 1))
    with pytest.raises(ValueError, match="seed 20, not 21"):
        fit(model, batches_of(1), model.loss, lambda: {"accuracy": 1.0}, loop_in(tmp_path, 1, 1, seed=21))


@pytest.mark.parametrize(("precision", "message"), [("fp16", "needs a GPU"), ("int8", "it must be auto")])
def test_a_precision_that_cannot_be_is_refused(precision: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        autocast_type(precision, torch.device("cpu"))


STEPS, EVERY, KILLED_AT = 11, 3, 8


def train_blocks(folder: Path, killed_at: int) -> None:
    """A run of 11 steps in epochs of 4; the process kills itself during step `killed_at`."""
    model, calls = Blocks(), [0]

    def loss_of(batch: Batch) -> Tensor:
        calls[0] += 1
        if calls[0] == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return model.loss(batch)

    def evaluate() -> Figures:
        return {"loss": -float(model.loss(batches_of(4)[0]))}

    fit(model, batches_of(4), loss_of, evaluate, loop_in(folder, STEPS, EVERY))


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    train_blocks(tmp_path / "whole", killed_at=0)
    folder = tmp_path / "killed"
    code = f"from tests.train.test_trainer import *; train_blocks(Path({str(folder)!r}), {KILLED_AT})"
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    # At most one interval is lost: step 8 was under way, and the checkpoint is of step 6.
    assert (folder / "checkpoint-6").is_dir()
    # What a kill in the middle of a save, or of a line, leaves behind.
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "model.safetensors").write_bytes(b"half")
    with (folder / METRICS).open("a") as file:
        file.write('{"step": 8, "lo')
    train_blocks(folder, killed_at=0)
    assert (folder / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()
    timed = ("seconds", "cpu_seconds", "train_runtime", "train_samples_per_second", "train_steps_per_second")
    whole, continued = (
        [{name: value for name, value in line.items() if name not in timed} for line in lines_of(path)]
        for path in (tmp_path / "whole", folder)
    )
    assert continued[:-1] == whole[:-1]
    seconds = [line["seconds"] for line in lines_of(folder)]
    assert seconds == sorted(seconds)
    assert not (folder / "unfinished").exists()
