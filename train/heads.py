"""GPT-2 sequence classifiers: starting weights, training and evaluation.

Serving reads the logits at the last token of `tokenizer.encode(text, pair)`. Training may add the loss of
predicting the text's own next tokens, which regularises the body on small sets.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2ForSequenceClassification, PreTrainedModel

from train.batching import length_buckets, pad
from train.data import Example
from train.optimization import Schedule, make_optimizers, take_step

log = logging.getLogger(__name__)

Augment = Callable[[Example, np.random.Generator], Example]
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

    def schedule(self, examples: int) -> Schedule:
        steps = self.epochs * -(-examples // self.batch)
        return Schedule(
            steps,
            warmup=min(200, steps // 10 + 1),
            matrix_rate=self.matrix_rate,
            other_rate=self.other_rate,
            weight_decay=self.weight_decay,
        )


@torch.no_grad()
def start_from_body(
    model: PreTrainedModel, tokenizer: Tokenizer, body: PreTrainedModel, source: Tokenizer
) -> None:
    """Copy the first layers of a language model's body into `model`, whose vocabulary is another one.

    A token's embedding starts as the mean of the source's embeddings for the same string.
    """
    mine, theirs = model.transformer, body.transformer
    mine.wpe.weight.copy_(theirs.wpe.weight[: mine.wpe.num_embeddings])
    for block, source_block in zip(mine.h, theirs.h, strict=False):
        block.load_state_dict(source_block.state_dict())
    mine.ln_f.load_state_dict(theirs.ln_f.state_dict())
    mine.wte.weight[0] = theirs.wte.weight[0]
    for index in range(1, tokenizer.get_vocab_size()):
        # Single bytes of a longer character have no string of their own; they keep their random start.
        text = tokenizer.decode([index], skip_special_tokens=False)
        pieces = source.encode(text, add_special_tokens=False).ids
        if pieces and "\ufffd" not in text:
            mine.wte.weight[index] = theirs.wte.weight[torch.tensor(pieces)].mean(dim=0)


def drop_tokens(rows: Tensor, share: float, keep: int) -> Tensor:
    """Replace a share of the tokens by token `keep`, which itself never changes."""
    return torch.where(torch.rand(rows.shape) < share, keep, rows) if share else rows


def classifier_loss(
    model: GPT2ForSequenceClassification, rows: Tensor, lengths: Tensor, targets: Tensor, run: HeadRun
) -> Tensor:
    """Smoothed cross-entropy at the last token, plus the weighted next-token loss.

    `targets` [batch, labels] are probabilities.
    """
    blank = model.config.eos_token_id
    hidden = model.transformer(drop_tokens(rows, run.token_dropout, blank), use_cache=False)[0]
    logits = model.score(hidden[torch.arange(len(rows)), lengths - 1])
    loss = F.cross_entropy(logits.float(), targets, label_smoothing=run.label_smoothing)
    if run.language_loss:
        inside = torch.arange(1, rows.shape[1]) < lengths[:, None]
        predicted = F.linear(hidden[:, :-1][inside], model.transformer.wte.weight)
        loss = loss + run.language_loss * F.cross_entropy(predicted, rows[:, 1:][inside])
    return loss


def encode(tokenizer: Tokenizer, examples: Sequence[Example]) -> list[list[int]]:
    """Token ids as the server makes them: special tokens added."""
    inputs = [e.text if e.pair is None else (e.text, e.pair) for e in examples]
    return [encoding.ids for encoding in tokenizer.encode_batch(inputs)]


@torch.no_grad()
def class_logits(
    model: GPT2ForSequenceClassification, rows: Sequence[Sequence[int]], batch: int = 128
) -> Tensor:
    """Logits [rows, labels] fp32 in the order of `rows`."""
    model.eval()
    result = torch.zeros(len(rows), model.config.num_labels)
    for chosen in length_buckets([len(row) for row in rows], batch):
        ids = pad([rows[index] for index in chosen], model.config.pad_token_id)
        last = torch.tensor([len(rows[index]) - 1 for index in chosen])
        hidden = model.transformer(ids, use_cache=False)[0]
        result[chosen] = model.score(hidden[torch.arange(len(ids)), last]).float()
    return result


def classifier_accuracy(
    model: GPT2ForSequenceClassification, tokenizer: Tokenizer, examples: Sequence[Example]
) -> float:
    """Share of examples whose highest logit is the label, 0 to 1."""
    predicted = class_logits(model, encode(tokenizer, examples)).argmax(dim=-1)
    return float((predicted == torch.tensor([e.label for e in examples])).float().mean())


def train_classifier(
    model: GPT2ForSequenceClassification,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    run: HeadRun,
    augment: Augment | None = None,
    soft_targets: Tensor | None = None,
) -> float:
    """Train in place; ends with the epoch that is best on `held_out`, whose accuracy is returned.

    `soft_targets` [examples, labels] replaces the labels, for distillation.
    """
    torch.manual_seed(run.seed)
    generator = np.random.default_rng(run.seed)
    labels = F.one_hot(torch.tensor([e.label for e in examples]), model.config.num_labels).float()
    targets = labels if soft_targets is None else soft_targets
    schedule = run.schedule(len(examples))
    optimizers = make_optimizers(model, schedule)
    best, best_state, step = -1.0, copy.deepcopy(model.state_dict()), 0
    for epoch in range(run.epochs):
        model.train()
        changed = examples if augment is None else [augment(e, generator) for e in examples]
        rows = encode(tokenizer, changed)
        for chosen in length_buckets([len(row) for row in rows], run.batch, generator):
            ids = pad([rows[index] for index in chosen], model.config.pad_token_id)
            lengths = torch.tensor([len(rows[index]) for index in chosen])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = classifier_loss(model, ids, lengths, targets[chosen], run)
            take_step(model, loss, optimizers, schedule, step)
            step += 1
        figure = classifier_accuracy(model, tokenizer, held_out)
        log.info("epoch %d loss %.3f held-out accuracy %.4f", epoch + 1, loss.item(), figure)
        if figure > best:
            best, best_state = figure, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_state)
    return best
