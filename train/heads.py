"""GPT-2 sequence classifiers: starting weights, loss, training and held-out figures.

A server reads the logits at the last token of `tokenizer.encode(text, pair)`. config.json's `problem_type`
says what they are: one of several classes, any number of classes, or a value. Training can add the loss of
predicting the text's next tokens, which regularizes the body on small data sets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedModel

from train.batching import Batch, EpochBatches, length_buckets, pad
from train.checkpoint import save_checkpoint
from train.data import LabelRow, Problem
from train.head_parts import body_states, is_bidirectional, reads_pairs
from train.optimization import Schedule
from train.trainer import Figures, Loop

Augment = Callable[[LabelRow, np.random.Generator], LabelRow]
# Of the body and of the bag in an answer; a half of each is their mean.
SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5)
# Ignored by cross-entropy.
IGNORED = -100


@dataclass(frozen=True)
class HeadRun:
    """Choices of one fine-tuning run."""

    epochs: int
    batch: int = 64
    matrix_rate: float = 2e-3
    other_rate: float = 1e-3
    weight_decay: float = 0.1
    label_smoothing: float = 0.1
    language_loss: float = 0.2
    token_dropout: float = 0.0
    seed: int = 20

    def loop(self, folder: Path, examples: int) -> Loop:
        """The loop over `examples` rows, with an evaluation after each epoch; its files are in `folder`."""
        epoch = -(-examples // self.batch)
        steps = self.epochs * epoch
        schedule = Schedule(
            steps,
            warmup=min(200, steps // 10 + 1),
            matrix_rate=self.matrix_rate,
            other_rate=self.other_rate,
            weight_decay=self.weight_decay,
        )
        return Loop(folder, schedule, epoch, seed=self.seed)


@torch.no_grad()
def start_from_body(
    model: PreTrainedModel, tokenizer: Tokenizer, body: PreTrainedModel, source: Tokenizer
) -> None:
    """Copy the first layers of a language model's body into `model`, which has another vocabulary.

    A token's embedding starts as the mean of the source's embeddings for the same string.
    """
    mine, theirs = model.transformer, body.transformer
    mine.wpe.weight.copy_(theirs.wpe.weight[: mine.wpe.num_embeddings])
    for block, source_block in zip(mine.h, theirs.h, strict=False):
        block.load_state_dict(source_block.state_dict())
    mine.ln_f.load_state_dict(theirs.ln_f.state_dict())
    mine.wte.weight[0] = theirs.wte.weight[0]
    for index in range(1, tokenizer.get_vocab_size()):
        # Single bytes of a longer character are no string; they keep their random initialization.
        text = tokenizer.decode([index], skip_special_tokens=False)
        pieces = source.encode(text, add_special_tokens=False).ids
        if pieces and "\ufffd" not in text:
            mine.wte.weight[index] = theirs.wte.weight[torch.tensor(pieces)].mean(dim=0)


def drop_tokens(rows: Tensor, share: float, keep: int) -> Tensor:
    """Replace a share of the tokens by the token `keep`."""
    return torch.where(torch.rand(rows.shape, device=rows.device) < share, keep, rows) if share else rows


def problem_of(config: GPT2Config) -> Problem:
    """What the classifier answers; one class where config.json does not say."""
    return next((p for p in Problem if p.problem_type == config.problem_type), Problem.SINGLE)


def read_last(states: Tensor, lengths: Tensor) -> Tensor:
    """The state at each row's last token: [rows, tokens, width] -> [rows, width]."""
    return states[torch.arange(len(states), device=states.device), lengths - 1]


def next_token_loss(states: Tensor, rows: Tensor, lengths: Tensor, embeddings: Tensor) -> Tensor:
    """Mean cross-entropy of predicting the tokens of each row from those before them."""
    inside = torch.arange(1, rows.shape[1], device=rows.device) < lengths[:, None]
    predicted = F.linear(states[:, :-1][inside], embeddings)
    return F.cross_entropy(predicted, rows[:, 1:][inside])


def target_loss(logits: Tensor, targets: Tensor, problem: Problem, smoothing: float = 0.0) -> Tensor:
    """The mean loss of logits [rows, labels]: (smoothed) cross-entropy, or the squared error of a value.

    `targets` have the same shape: probabilities of the classes, or values.
    """
    if problem is Problem.REGRESSION:
        return F.mse_loss(logits.float(), targets)
    if problem is Problem.MULTI:
        return F.binary_cross_entropy_with_logits(
            logits.float(), torch.lerp(targets, torch.full_like(targets, 0.5), smoothing)
        )
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


def targets_of(config: GPT2Config, examples: Sequence[LabelRow]) -> Tensor:
    """[examples, labels] float32: 1 for each class of a row, or its value; KeyError for an unknown class."""
    if problem_of(config) is Problem.REGRESSION:
        return torch.tensor([[example.label] for example in examples], dtype=torch.float32)
    result = torch.zeros(len(examples), config.num_labels)
    for row, example in enumerate(examples):
        names = example.label if isinstance(example.label, tuple) else (str(example.label),)
        result[row, [config.label2id[name] for name in names]] = 1.0
    return result


def encode(tokenizer: Tokenizer, examples: Sequence[LabelRow]) -> list[list[int]]:
    """Token ids as the server makes them: special tokens added."""
    inputs = [e.text if e.text_pair is None else (e.text, e.text_pair) for e in examples]
    return [encoding.ids for encoding in tokenizer.encode_batch(inputs)]


@torch.no_grad()
def class_logits(
    model: GPT2ForSequenceClassification, rows: Sequence[Sequence[int]], batch: int = 128
) -> Tensor:
    """Logits [rows, labels] fp32 in the order of `rows`."""
    model.eval()
    result = torch.zeros(len(rows), model.config.num_labels)
    for chosen in length_buckets([len(row) for row in rows], batch):
        ids = pad([rows[index] for index in chosen], model.config.pad_token_id or 0).to(model.device)
        lengths = torch.tensor([len(rows[index]) for index in chosen], device=model.device)
        hidden = body_states(model.transformer, ids, lengths)
        result[chosen] = label_logits(model, hidden, ids, lengths).float().cpu()
    return result


@torch.no_grad()
def mixed_logits(
    model: GPT2ForSequenceClassification, rows: Sequence[Sequence[int]], targets: Tensor
) -> tuple[float, float, Tensor]:
    """The scales of a body and of its fitted bag whose sum has the least loss, and this sum [rows, labels].

    A scale of 1 is what the part answers alone.
    """
    both, bag = class_logits(model, rows), model.ngrams
    model.ngrams = None
    body = class_logits(model, rows)
    model.ngrams = bag
    bag_alone, problem = both - body, problem_of(model.config)

    def mixed(scales: tuple[float, float]) -> Tensor:
        return 2 * (scales[0] * body + scales[1] * bag_alone)

    best = min(
        product(SCALES, SCALES), key=lambda scales: float(target_loss(mixed(scales), targets, problem))
    )
    return *best, mixed(best)


def label_logits(
    model: GPT2ForSequenceClassification, states: Tensor, rows: Tensor, lengths: Tensor
) -> Tensor:
    """[rows, labels]: of the state at each row's last token, plus the bag of n-grams if there is one."""
    logits: Tensor = model.score(read_last(states, lengths))
    bag = getattr(model, "ngrams", None)
    return logits if bag is None else bag.added_to(logits, rows, lengths)


def classifier_figures(
    model: GPT2ForSequenceClassification, tokenizer: Tokenizer, examples: Sequence[LabelRow]
) -> dict[str, float]:
    """The loss, and what counts: accuracy, micro-averaged F1 (at 0.5), or the root of the squared error.

    In a training with a fitted bag they are those of `mixed_logits`.
    """
    ids, targets, problem = (
        encode(tokenizer, examples),
        targets_of(model.config, examples),
        problem_of(model.config),
    )
    bag = getattr(model, "ngrams", None)
    mixed = bag is not None and bag.fitted
    logits = mixed_logits(model, ids, targets)[2] if mixed else class_logits(model, ids)
    figures = {"loss": float(target_loss(logits, targets, problem))}
    match problem:
        case Problem.SINGLE:
            figures["accuracy"] = float((logits.argmax(1) == targets.argmax(1)).float().mean())
        case Problem.MULTI:
            found = logits > 0
            hits = float((found * targets).sum())
            figures["F1"] = 2 * hits / max(1.0, float(found.sum() + targets.sum()))
        case Problem.REGRESSION:
            figures["error"] = figures["loss"] ** 0.5
    return figures


def classifier_accuracy(
    model: GPT2ForSequenceClassification, tokenizer: Tokenizer, examples: Sequence[LabelRow]
) -> float:
    """Share of examples whose highest logit is the label, 0 to 1."""
    return classifier_figures(model, tokenizer, examples)["accuracy"]


class ClassifierTraining:
    """A classifier with the rows that it learns from: batches and loss for `fit`.

    `targets` [rows, labels] replace the labels, for distillation. `augment` changes each row anew each epoch.
    """

    def __init__(
        self,
        model: GPT2ForSequenceClassification,
        tokenizer: Tokenizer,
        rows: Sequence[LabelRow],
        run: HeadRun,
        augment: Augment | None = None,
        targets: Tensor | None = None,
    ) -> None:
        if run.language_loss and is_bidirectional(model.config):
            raise ValueError("language_loss: attention to both sides sees the next token; 0 is needed")
        self.model = model
        self.batches = EpochBatches(self._epoch, -(-len(rows) // run.batch))
        self.tokenizer = tokenizer
        self._rows = rows
        self._run = run
        self._augment = augment
        self._problem = problem_of(model.config)
        self._targets = targets_of(model.config, rows) if targets is None else targets

    def _epoch(self, epoch: int) -> list[Batch]:
        generator = np.random.default_rng((self._run.seed, epoch))
        rows = self._rows if self._augment is None else [self._augment(row, generator) for row in self._rows]
        ids = encode(self.tokenizer, rows)
        return [
            {
                "rows": pad([ids[index] for index in chosen], self.model.config.pad_token_id or 0),
                "lengths": torch.tensor([len(ids[index]) for index in chosen]),
                "targets": self._targets[chosen],
            }
            for chosen in length_buckets([len(row) for row in ids], self._run.batch, generator)
        ]

    def for_bag(self, rows: Sequence[LabelRow]) -> tuple[list[list[int]], Tensor]:
        """Token ids and targets, for `train.bag_fitting`."""
        return encode(self.tokenizer, rows), targets_of(self.model.config, rows)

    def loss(self, batch: Batch) -> Tensor:
        """The loss of the labels at the last token, plus the weighted next-token loss."""
        model, run, rows, lengths = self.model, self._run, batch["rows"], batch["lengths"]
        seen = drop_tokens(rows, run.token_dropout, model.config.eos_token_id)
        hidden = body_states(model.transformer, seen, lengths)
        # Tokens are blanked by the one that ends a text; a bag of pairs looks for the end of the first.
        logits = label_logits(model, hidden, rows if reads_pairs(model.config) else seen, lengths)
        loss = target_loss(logits, batch["targets"], self._problem, run.label_smoothing)
        if run.language_loss:
            wte = model.transformer.wte.weight
            loss = loss + run.language_loss * next_token_loss(hidden, rows, lengths, wte)
        return loss

    @property
    def module(self) -> GPT2ForSequenceClassification:
        return self.model

    def figures(self, rows: Sequence[LabelRow]) -> dict[str, float]:
        """See `classifier_figures`."""
        return classifier_figures(self.model, self.tokenizer, rows)

    def score(self, figures: Figures) -> float:
        """What the best epoch has most of; the loss decides between equal figures."""
        main = figures.get("accuracy", figures.get("F1", -figures.get("error", 0.0)))
        return main - 1e-6 * figures["loss"]

    def save(self, out: Path) -> None:
        """Write the checkpoint folder."""
        names = ["GPT2ForSequenceClassification"]
        save_checkpoint(out, self.model, self.model.config, self.tokenizer, architectures=names)
