"""`lmaas prune` and `lmaas distil`: a training of `train/job.py` with a smaller model in place of its own."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import KFold

from runtime.contract import Kind
from runtime.heads import HeadInput
from train.batching import Batch, EpochBatches
from train.data import LabelRow, Problem
from train.distillation import Distilled, ModelTeacher, TableTeacher, Teacher, Weights, spread
from train.evaluation.baseline import LinearBaseline
from train.heads import encode
from train.job import Change, Data, RunError
from train.kinds import make_training
from train.narrowing import with_width
from train.options import LINEAR, Options
from train.pruning import Criterion, Shares, cut, kept_units, measure_importance
from train.start import Start, open_start
from train.trainer import Figures
from train.training import Training

FOLDS = 3  # the linear teacher's answer to a row is from a fit without it


@dataclass(frozen=True)
class Pruning(Change):
    """Cuts the model before it is trained on."""

    shares: Shares
    criterion: Criterion
    rows: int  # on which importance is measured

    def fixed(self) -> dict[str, str]:
        return {
            "--heads": str(self.shares.heads),
            "--neurons": str(self.shares.neurons),
            "--ranking": self.shares.ranking.value,
            "--neuron-step": str(self.shares.neuron_step),
            "--criterion": self.criterion.value,
            "--rows": str(self.rows),
        }

    def training(self, training: Training, data: Data) -> Training:
        batches = training.batches
        size = len(batches[0]["rows"])
        chosen = [batches[index] for index in range(min(len(batches), -(-self.rows // size)))]
        importance = measure_importance(training.module, training.loss, chosen, self.criterion)
        cut(training.module.transformer, *kept_units(importance, self.shares))
        if (bag := getattr(training.module, "ngrams", None)) is not None:
            # It lost nothing, and would forget how its own fit weighed the rows.
            bag.requires_grad_(False)
        return training


@dataclass(frozen=True)
class Distilling(Change):
    """Trains a smaller model on what its teachers answer."""

    kind: Kind
    options: Options
    teachers: Sequence[str]  # folders of checkpoints, or LINEAR
    weights: Weights
    layers: int | None  # None: those of the student that the run starts with
    width: int | None  # None: that of the start
    neurons: int | None = (
        None  # of each layer of a narrower student; None: four times the width, at most the start's
    )
    buckets: int | None = None  # of the student's bag of n-grams; None: those of the start

    def fixed(self) -> dict[str, str]:
        given = {
            "--layers": self.layers,
            "--width": self.width,
            "--neurons": self.neurons,
            "--ngram-buckets": self.buckets,
            **asdict(self.weights),
        }
        return {"TEACHER": ", ".join(self.teachers)} | {name: str(value) for name, value in given.items()}

    def start(self, start: Start, data: Data) -> Start:
        start = start if self.layers is None else with_layers(start, self.layers)
        start = start if self.buckets is None else with_buckets(start, self.buckets)
        if self.width in (None, start.config.n_embd):
            if self.neurons is not None:
                raise ValueError("neurons: only a student with a smaller --width has a number of its own")
            return start
        # Its own config: a training changes it.
        whole = replace(start, config=deepcopy(start.config))
        wide = make_training(self.kind, whole, data.train, replace(self.options, token_dropout=0.0))
        return with_width(start, wide, int(self.width or 0), self.neurons)

    def training(self, training: Training, data: Data) -> Training:
        teachers = [self._open(teacher, training, data) for teacher in self.teachers]
        if (bag := getattr(training.module, "ngrams", None)) is not None:
            # What learns from the teachers is the sum of the body and the bag.
            bag.fitted = False
        student = Distilled(training.module, training.loss, teachers, self._fitting(training, teachers))
        return DistilledTraining(training, student)

    def _open(self, name: str, student: Any, data: Data) -> Teacher:
        if name == LINEAR:
            return linear_teacher(student, data.train)
        options = replace(self.options, start=name, token_dropout=0.0)
        start = open_start(self.kind, options, ())
        if start.tokenizer.to_str() != student.tokenizer.to_str():
            raise RunError(f"{name}: its tokenizer is not that of the student, which reads other tokens")
        # The first row is enough: batches come from the student.
        teacher: Any = make_training(self.kind, start, data.train[:1], options)
        if teacher.module.config.id2label != student.module.config.id2label:
            raise RunError(f"{name}: its labels are not those of the student")
        return ModelTeacher(teacher.module, teacher.loss)

    def _fitting(self, training: Any, teachers: Sequence[Teacher]) -> Weights:
        """The weights without hidden states, where none are as wide as the student's."""
        wide = training.module.config.n_embd
        widths = {teacher.width for teacher in teachers if isinstance(teacher, ModelTeacher)}
        return self.weights if widths == {wide} else replace(self.weights, gamma=0.0)


class DistilledTraining:
    """The training of a student: its own, with the loss of distillation."""

    def __init__(self, student: Training, distilled: Distilled) -> None:
        self._student = student
        self._distilled = distilled

    @property
    def module(self) -> Any:
        return self._student.module

    @property
    def tokenizer(self) -> Any:
        return self._student.tokenizer

    @property
    def batches(self) -> EpochBatches:
        return self._student.batches

    def loss(self, batch: Batch) -> torch.Tensor:
        return self._distilled.loss(batch)

    def figures(self, rows: Sequence[Any]) -> dict[str, float]:
        return self._student.figures(rows)

    def score(self, figures: Figures) -> float:
        return self._student.score(figures)

    def save(self, out: Path) -> None:
        self._student.save(out)


def with_layers(start: Start, count: int) -> Start:
    """`count` of the start's layers, spread evenly. Raises ValueError where it has fewer."""
    chosen = spread(start.config.n_layer, count)
    kept = {name: tensor for name, tensor in start.tensors.items() if not name.startswith("h.")}
    for new, old in enumerate(chosen):
        before = f"h.{old}."
        kept |= {
            f"h.{new}.{name.removeprefix(before)}": tensor
            for name, tensor in start.tensors.items()
            if name.startswith(before)
        }
    start.config.n_layer = count
    for key in ("layer_heads", "layer_neurons"):
        if numbers := getattr(start.config, key, None):
            setattr(start.config, key, [numbers[old] for old in chosen])
    return replace(start, tensors=kept)


def with_buckets(start: Start, count: int) -> Start:
    """A bag of n-grams with fewer buckets: each has the sum of the weights of those that fall together.

    Raises ValueError where the start has no bag, or one whose number of buckets is no multiple of `count`.
    """
    buckets = getattr(start.config, "ngram_buckets", None)
    if not buckets or count < 1 or buckets % count:
        has = f"its bag of n-grams has {buckets:,} buckets" if buckets else "it has no bag of n-grams"
        raise ValueError(f"ngram buckets: {count}: a divisor of the start's is needed, and {has}")
    # A bucket is a remainder, and that by a divisor is the remainder of it.
    table = start.tensors["ngrams.weight"].float()
    start.config.ngram_buckets = count
    folded = table.view(-1, count, table.shape[1]).sum(dim=0)
    return replace(start, tensors={**start.tensors, "ngrams.weight": folded})


def linear_teacher(student: Any, rows: Sequence[Any]) -> Teacher:
    """TF-IDF and logistic regression; each row's probabilities come from a fit on other rows."""
    config = student.module.config
    if not isinstance(rows[0], LabelRow) or config.problem_type != Problem.SINGLE.problem_type:
        raise RunError(f"{LINEAR}: a linear teacher gives one class to a text, and is for such classifiers")
    places = [config.label2id[name] for name in sorted(config.label2id)]
    table = torch.zeros(len(rows), config.num_labels)
    for seen, unseen in KFold(FOLDS, shuffle=True, random_state=0).split(np.arange(len(rows))):
        baseline = LinearBaseline([rows[index] for index in seen], config.problem_type)
        if baseline.about.labels != tuple(sorted(config.label2id)):
            raise RunError(f"{LINEAR}: a label has too few rows to be learned from a part of them")
        asked = [HeadInput(rows[index].text, rows[index].text_pair) for index in unseen]
        found = np.stack([answer.scores for answer in baseline.answers(asked)])
        table[torch.from_numpy(unseen)[:, None], torch.tensor(places)] = torch.from_numpy(found)
    return TableTeacher("score", encode(student.tokenizer, rows), table)
