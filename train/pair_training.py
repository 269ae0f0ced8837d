"""Training of a classifier of pairs that also learns which tokens of the second text are in the first.

With labels alone, a small model memorizes the second text and hardly uses the first. Three things change
that: attention heads of the first block that are initialized to find the same token (after Trockman and
Kolter, Mimetic initialization of self-attention layers, 2023), targets for the matching, and the soft
predictions of a teacher. Only the weights of the classifier are kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2ForSequenceClassification

from train.batching import length_buckets, pad
from train.data import LabelRow
from train.fit import fit
from train.heads import Augment, HeadRun, classifier_accuracy, drop_tokens, label_ids
from train.overlap import NO_TARGET, PAIR_TARGETS, TOKEN_TARGETS, pair_targets, teach, token_targets

# Initial attention logit between equal tokens.
MATCH_LOGIT = 7.0


@dataclass(frozen=True)
class Matching:
    """The weight of matching in the training."""

    heads: int = 2
    weight: float = 0.3
    rate: float = 3e-3
    # Share of the teacher's predictions in the targets.
    teacher: float = 0.5


@torch.no_grad()
def look_for_equal_tokens(model: GPT2ForSequenceClassification, heads: int) -> None:
    """Initialize the last heads of the first block with one random projection for queries and keys."""
    block, width = model.transformer.h[0], model.config.n_embd
    size = width // model.config.n_head
    weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
    square = (block.ln_1(model.transformer.wte.weight[1:]) ** 2).sum(dim=1).mean()
    for head in range(model.config.n_head - heads, model.config.n_head):
        projection = torch.randn(width, size) * (MATCH_LOGIT * size**0.5 / (size * square)) ** 0.5
        for first in (head * size, width + head * size):
            weight[:, first : first + size] = projection
            bias[first : first + size] = 0


class MatchingHeads(torch.nn.Module):
    """Heads that predict the matching targets from the first block's tokens and from the last token.

    They are dropped after the training.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = torch.nn.Linear(width, TOKEN_TARGETS)
        self.pair = torch.nn.Linear(width, PAIR_TARGETS)

    def loss(self, first: Tensor, last: Tensor, of_tokens: Tensor, of_pairs: Tensor) -> Tensor:
        """Binary cross-entropy of both; `first` is [rows, tokens, width], `last` [rows, width]."""
        known = of_tokens != NO_TARGET
        by_token = F.binary_cross_entropy_with_logits(self.tokens(first).float()[known], of_tokens[known])
        return by_token + F.binary_cross_entropy_with_logits(self.pair(last).float(), of_pairs)


@dataclass(frozen=True)
class MatchingBatch:
    """Padded rows with the index of each row's last token, and the three kinds of targets."""

    ids: Tensor
    last: Tensor
    labels: Tensor  # [rows, labels] probabilities
    of_tokens: Tensor
    of_pairs: Tensor


class PairEpochs:
    """Batches of augmented examples; each epoch augments and shuffles them again."""

    def __init__(
        self,
        model: GPT2ForSequenceClassification,
        tokenizer: Tokenizer,
        examples: Sequence[LabelRow],
        run: HeadRun,
        augment: Augment,
        teacher: float,
    ) -> None:
        self._config = model.config
        self._tokenizer = tokenizer
        self._examples = examples
        self._run = run
        self._augment = augment
        self._generator = np.random.default_rng(run.seed)
        ids = label_ids(model.config, examples)
        labels = F.one_hot(torch.tensor(ids), model.config.num_labels).float()
        self._labels = torch.lerp(labels, teach(examples, ids), teacher)
        self._of_pairs = torch.tensor([pair_targets(e) for e in examples])

    def __iter__(self) -> Iterator[Iterator[MatchingBatch]]:
        for _ in range(self._run.epochs):
            yield self._epoch()

    def _epoch(self) -> Iterator[MatchingBatch]:
        changed = [self._augment(e, self._generator) for e in self._examples]
        encodings = self._tokenizer.encode_batch([(e.text, e.text_pair) for e in changed])
        rows = [encoding.ids for encoding in encodings]
        closing = self._config.eos_token_id
        of_tokens = [token_targets(e, c, closing) for e, c in zip(changed, encodings, strict=True)]
        for chosen in length_buckets([len(row) for row in rows], self._run.batch, self._generator):
            wanted = [of_tokens[index] for index in chosen]
            yield MatchingBatch(
                ids=pad([rows[index] for index in chosen], self._config.pad_token_id),
                last=torch.tensor([len(rows[index]) - 1 for index in chosen]),
                labels=self._labels[chosen],
                of_tokens=torch.nn.utils.rnn.pad_sequence(wanted, True, NO_TARGET),
                of_pairs=self._of_pairs[chosen],
            )


def train_pair_classifier(
    model: GPT2ForSequenceClassification,
    tokenizer: Tokenizer,
    examples: Sequence[LabelRow],
    held_out: Sequence[LabelRow],
    run: HeadRun,
    augment: Augment,
    matching: Matching,
) -> float:
    """Train in place; ends with the epoch that is best on `held_out`, whose accuracy is returned."""
    torch.manual_seed(run.seed)
    look_for_equal_tokens(model, matching.heads)
    heads = MatchingHeads(model.config.n_embd)

    def loss_of(batch: MatchingBatch) -> Tensor:
        ids = drop_tokens(batch.ids, run.token_dropout, model.config.eos_token_id)
        states = model.transformer(ids, use_cache=False, output_hidden_states=True)
        read = states[0][torch.arange(len(ids)), batch.last]
        loss = F.cross_entropy(model.score(read).float(), batch.labels)
        extra = heads.loss(states.hidden_states[1], read, batch.of_tokens, batch.of_pairs)
        return loss + matching.weight * extra

    best = fit(
        model,
        PairEpochs(model, tokenizer, examples, run, augment, matching.teacher),
        loss_of,
        lambda: {"accuracy": classifier_accuracy(model, tokenizer, held_out)},
        run.schedule(len(examples)),
        auxiliary=torch.optim.AdamW(heads.parameters(), lr=matching.rate),
    )
    return best["accuracy"]
