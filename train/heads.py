"""GPT-2 sequence classifiers: starting weights, training and evaluation.

A server reads the logits at the last token of `tokenizer.encode(text, pair)`. Training can add the loss of
predicting the text's next tokens, which regularizes the body on small data sets.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedModel

from train.batching import length_buckets, pad
from train.data import LabelRow
from train.fit import fit
from train.optimization import Schedule

Augment = Callable[[LabelRow, np.random.Generator], LabelRow]
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


def encode(tokenizer: Tokenizer, examples: Sequence[LabelRow]) -> list[list[int]]:
    """Token ids as the server makes them: special tokens added."""
    inputs = [e.text if e.text_pair is None else (e.text, e.text_pair) for e in examples]
    return [encoding.ids for encoding in tokenizer.encode_batch(inputs)]


def label_ids(config: GPT2Config, examples: Sequence[LabelRow]) -> list[int]:
    """The index of each row's label in the model's labels. Raises KeyError for a label that it has not."""
    return [config.label2id[str(example.label)] for example in examples]


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
    model: GPT2ForSequenceClassification, tokenizer: Tokenizer, examples: Sequence[LabelRow]
) -> float:
    """Share of examples whose highest logit is the label, 0 to 1."""
    predicted = class_logits(model, encode(tokenizer, examples)).argmax(dim=-1)
    return float((predicted == torch.tensor(label_ids(model.config, examples))).float().mean())


def train_classifier(
    model: GPT2ForSequenceClassification,
    tokenizer: Tokenizer,
    examples: Sequence[LabelRow],
    held_out: Sequence[LabelRow],
    run: HeadRun,
    augment: Augment | None = None,
    soft_targets: Tensor | None = None,
) -> float:
    """Train in place; ends with the epoch that is best on `held_out`, whose accuracy is returned.

    `soft_targets` [examples, labels] replaces the labels, for distillation.
    """
    torch.manual_seed(run.seed)
    generator = np.random.default_rng(run.seed)
    labels = F.one_hot(torch.tensor(label_ids(model.config, examples)), model.config.num_labels).float()
    targets = labels if soft_targets is None else soft_targets

    def epochs() -> Iterator[Iterator[tuple[Tensor, Tensor, Tensor]]]:
        for _ in range(run.epochs):
            changed = examples if augment is None else [augment(e, generator) for e in examples]
            yield batches(encode(tokenizer, changed))

    def batches(rows: list[list[int]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for chosen in length_buckets([len(row) for row in rows], run.batch, generator):
            ids = pad([rows[index] for index in chosen], model.config.pad_token_id)
            yield ids, torch.tensor([len(rows[index]) for index in chosen]), targets[chosen]

    best = fit(
        model,
        epochs(),
        lambda batch: classifier_loss(model, *batch, run),
        lambda: {"accuracy": classifier_accuracy(model, tokenizer, held_out)},
        run.schedule(len(examples)),
    )
    return best["accuracy"]
