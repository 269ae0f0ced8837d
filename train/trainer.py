"""The training loop: transformers' Trainer with our optimizers, exact resumption and the best weights.

How a training uses it:

1. Make batches: `EpochBatches`, or another map-style Dataset whose items are whole batches. A batch is a
   dictionary of tensors. Batch `index` of epoch `epoch` must depend on these two numbers and a seed only: a
   continued run asks for it again, and the loader asks for one batch ahead. Draw from a generator made from
   (seed, epoch), never from the global state of torch or NumPy.
2. Write `loss_of(batch)`: the mean loss of a batch, a scalar. It runs under autocast and may draw from
   torch's global generator (dropout), whose state is saved. The batch is on the device of the model.
3. Write `evaluate()`: held-out figures by name. The model is in evaluation mode, without gradients.
4. Call `fit(model, batches, loss_of, evaluate, Loop(folder, Schedule(...), evaluate_every=...))`. The model
   ends with the weights of the best figures, which are returned.

Everything is written into `Loop.folder`, which belongs to one run: `metrics.jsonl` (one line per log or
evaluation: step, epoch, seconds, and what was measured), `best.safetensors`, `run.json`, `checkpoint-STEP`.
A run that was killed continues from its last checkpoint when `fit` is called again with the same folder:
weights, optimizers, schedule, position in the data and random states. Auxiliary heads that are trained with
the model belong into one module with it: pass that module as `model`.
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from train.batching import Batch
from train.callbacks import EvaluateOnTime, Report, ReportProgress, ShowProgress
from train.optimization import Schedule, autocast_type, make_optimizer
from train.run_files import MetricsFile, flush, write_atomically

log = logging.getLogger(__name__)

Figures = Mapping[str, float]  # held-out figures by their names

BEST = "best.safetensors"
METRICS = "metrics.jsonl"
RUN = "run.json"
_STATE = "trainer_state.json"
_WEIGHTS = "model.safetensors"
_UNFINISHED = "unfinished"


def sum_of(figures: Figures) -> float:
    """The score of figures that are better the larger they are."""
    return sum(figures.values())


@dataclass(frozen=True)
class Loop:
    """How one run goes. Counts are steps, that is updates of the weights."""

    folder: Path
    schedule: Schedule
    evaluate_every: int
    # By default a checkpoint follows each evaluation.
    save_every: int | None = None
    # Checkpoints kept beside the best weights; older ones are deleted.
    keep: int = 2
    log_every: int = 100
    # Batches whose gradients are added up before one step.
    accumulation: int = 1
    # Evaluations in a row without a better score after which the run ends; 0: never.
    patience: int = 0
    # fp32, bf16, fp16 (on a GPU only), or auto: bf16 where the device computes in it.
    precision: str = "auto"
    seed: int = 20
    progress: bool = False
    # Is called now and then with how far the run is.
    report: Report | None = None
    # auto takes a GPU if there is one; cpu does not.
    device: str = "auto"

    def fixed(self) -> dict[str, object]:
        """What must not change when a run continues."""
        schedule = self.schedule
        return {
            "accumulation": self.accumulation,
            "precision": self.precision,
            "seed": self.seed,
            "warmup": schedule.warmup,
            "matrix_rate": schedule.matrix_rate,
            "other_rate": schedule.other_rate,
            "weight_decay": schedule.weight_decay,
            "clip": schedule.clip,
        }


def fit(
    model: torch.nn.Module,
    batches: Dataset[Batch],
    loss_of: Callable[[Batch], Tensor],
    evaluate: Callable[[], Figures],
    loop: Loop,
    *,
    score: Callable[[Figures], float] = sum_of,
) -> Figures:
    """Train `model` in place, from the last checkpoint in `loop.folder` if there is one.

    It ends with the weights whose figures have the highest `score`; these figures are returned. Raises
    ValueError where no score is a number, or where the folder belongs to a run with other choices.
    """
    loop.folder.mkdir(parents=True, exist_ok=True)
    _check_run(loop)
    trainer = LoopTrainer(model, batches, loss_of, evaluate, loop, score)
    last = get_last_checkpoint(str(loop.folder))
    done = 0 if last is None else int(_read_state(Path(last))["global_step"])
    trainer.metrics.keep_until(done)
    if last is not None:
        log.info("continuing after step %d", done)
    if last is None or not trainer.has_ended(_read_state(Path(last))):
        trainer.train(resume_from_checkpoint=last)
    return trainer.restore_best()


def _check_run(loop: Loop) -> None:
    path = loop.folder / RUN
    if not path.exists():
        write_atomically(path, json.dumps(loop.fixed(), indent=2) + "\n")
        return
    before = json.loads(path.read_text("utf-8"))
    for name, value in loop.fixed().items():
        if before.get(name) != value:
            raise ValueError(
                f"{loop.folder} belongs to a run with {name} {before.get(name)}, not {value}; "
                "take another folder, or delete this one"
            )


def _read_state(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoint / _STATE).read_text("utf-8"))
    return found


class LoopTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer for batches, a loss and figures of our own. Use it through `fit`."""

    optimizer: torch.optim.Optimizer | None
    lr_scheduler: Any
    control: Any

    def __init__(
        self,
        model: torch.nn.Module,
        batches: Dataset[Batch],
        loss_of: Callable[[Batch], Tensor],
        evaluate: Callable[[], Figures],
        loop: Loop,
        score: Callable[[Figures], float],
    ) -> None:
        self._loop, self._loss_of, self._figures_of, self._score = loop, loss_of, evaluate, score
        self.metrics = MetricsFile(loop.folder / METRICS)
        super().__init__(
            model,
            _arguments(loop),
            train_dataset=batches,
            callbacks=[EvaluateOnTime(loop.evaluate_every), *_observers(loop)],
        )
        self.remove_callback(PrinterCallback)
        # The loss is a mean; Trainer then divides it by the number of batches that are added up.
        self.model_accepts_loss_kwargs = False
        self._autocast = autocast_type(loop.precision, self.args.device)

    # What Trainer asks for

    def create_optimizer(self) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.model, self._loop.schedule)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.create_optimizer(), self._loop.schedule.factor
            )
        return self.lr_scheduler

    def get_train_dataloader(self) -> DataLoader[Batch]:
        loader = DataLoader(self.train_dataset, batch_size=1, collate_fn=_only)
        prepared: DataLoader[Batch] = self.accelerator.prepare(loader)
        return prepared

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Tensor:
        with torch.autocast(self.args.device.type, self._autocast, enabled=self._autocast is not None):
            return self._loss_of(inputs)

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    # Figures and best weights

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        self.model.eval()
        with torch.no_grad():
            figures = dict(self._figures_of())
        score = self._score(figures)
        best = self.state.best_metric
        if score > (-math.inf if best is None else best):
            partial = self._loop.folder / (BEST + ".partial")
            save_model(self.model, str(partial), metadata={"figures": json.dumps(figures)})
            partial.replace(self._loop.folder / BEST)
        elif self._patience_ends(self.state.global_step, self.state.best_global_step):
            self.control.should_training_stop = True
        found = {f"eval_{name}": value for name, value in figures.items()} | {"eval_score": score}
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def _patience_ends(self, step: int, best_step: int | None) -> bool:
        waited = step - (best_step or 0)
        return bool(self._loop.patience) and waited >= self._loop.patience * self._loop.evaluate_every

    def has_ended(self, state: Mapping[str, Any]) -> bool:
        """Whether a checkpoint with this state is the last one of the run."""
        step = state["global_step"]
        return step >= self._loop.schedule.steps or self._patience_ends(step, state["best_global_step"])

    def restore_best(self) -> Figures:
        """Put the best weights back. Raises ValueError where there are none."""
        path = self._loop.folder / BEST
        if not path.exists():
            raise ValueError("training diverged: no held-out score is a number")
        # For fp16, accelerate wraps the model's forward in autocast: what is measured next is fp32.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        load_model(self.model, path)
        with safe_open(path, "pt") as file:
            figures: dict[str, float] = json.loads(file.metadata()["figures"])
        return figures

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        self.metrics.add(self.state.global_step, self.state.epoch or 0.0, logs)
        named = " ".join(f"{name} {value:.4g}" for name, value in logs.items())
        log.info("step %d %s", self.state.global_step, named)

    # Checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write all files aside, then rename their folder: a checkpoint is whole or not there."""
        target = self._loop.folder / f"checkpoint-{self.state.global_step}"
        partial = self._loop.folder / _UNFINISHED
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        save_model(self.model, str(partial / _WEIGHTS))
        self._save_optimizer_and_scheduler(str(partial))
        self._save_scaler(str(partial))
        self._save_rng_state(str(partial))
        self.state.save_to_json(str(partial / _STATE))
        for path in [*partial.iterdir(), partial]:
            flush(path)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        flush(self._loop.folder)
        self._rotate_checkpoints(output_dir=str(self._loop.folder))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_model(self.model, Path(resume_from_checkpoint) / _WEIGHTS)


def _observers(loop: Loop) -> list[TrainerCallback]:
    shown = [ShowProgress()] if loop.progress else []
    return shown if loop.report is None else [*shown, ReportProgress(loop.report)]


def _only(batches: list[Batch]) -> Batch:
    return batches[0]


def _arguments(loop: Loop) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(loop.folder),
        max_steps=loop.schedule.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=loop.accumulation,
        max_grad_norm=loop.schedule.clip,
        fp16=loop.precision == "fp16",
        seed=loop.seed,
        logging_steps=loop.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=loop.save_every or loop.evaluate_every,
        save_total_limit=loop.keep,
        use_cpu=loop.device == "cpu",
        metric_for_best_model="score",
        greater_is_better=True,
        disable_tqdm=True,
        dataloader_pin_memory=loop.device != "cpu" and torch.cuda.is_available(),
        report_to="none",
    )
    # With several GPUs Trainer would copy the model to each, and our loss reads the first one alone.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments
