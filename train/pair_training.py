"""Training of a classifier of pairs that also learns which tokens of the second text are in the first.

With labels alone, a small model memorizes the second text and hardly uses the first. Three things change
that: attention heads of the first block that are initialized to find the same token (after Trockman and
Kolter, Mimetic initialization of self-attention layers, 2023), targets for the matching, and the soft
predictions of a teacher. Only the weights of the classifier are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GPT2ForSequenceClassification

from train.batching import Batch, length_buckets, pad
from train.data import LabelRow, Problem
from train.heads import Augment, ClassifierTraining, HeadRun, drop_tokens, read_last, target_loss
from train.overlap import NO_TARGET, PAIR_TARGETS, TOKEN_TARGETS, pair_targets, teach, token_targets

# Initial attention logit between equal tokens.
MATCH_LOGIT = 7.0


@dataclass(frozen=True)
class Matching:
    """The weight of matching in the training."""

    heads: int = 2
    weight: float = 0.3
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


class PairTraining(ClassifierTraining):
    """A classifier of pairs that is trained with its matching heads."""

    def __init__(
        self,
        model: GPT2ForSequenceClassification,
        tokenizer: Tokenizer,
        examples: Sequence[LabelRow],
        run: HeadRun,
        augment: Augment,
        matching: Matching,
    ) -> None:
        super().__init__(model, tokenizer, examples, run, augment)
        torch.manual_seed(run.seed)
        look_for_equal_tokens(model, matching.heads)
        self.heads = MatchingHeads(model.config.n_embd)
        self._both = torch.nn.ModuleDict({"model": model, "heads": self.heads})
        self._augmented = augment
        self._matching = matching
        taught = teach(examples, self._targets.argmax(dim=1).tolist())
        self._targets = torch.lerp(self._targets, taught, matching.teacher)
        self._of_pairs = torch.tensor([pair_targets(e) for e in examples])

    @property
    def module(self) -> torch.nn.Module:
        return self._both

    def _epoch(self, epoch: int) -> list[Batch]:
        generator = np.random.default_rng((self._run.seed, epoch))
        changed = [self._augmented(e, generator) for e in self._rows]
        encodings = self.tokenizer.encode_batch([(e.text, e.text_pair) for e in changed])
        rows = [encoding.ids for encoding in encodings]
        closing = self.model.config.eos_token_id
        of_tokens = [token_targets(e, c, closing) for e, c in zip(changed, encodings, strict=True)]
        return [
            {
                "rows": pad([rows[index] for index in chosen], self.model.config.pad_token_id),
                "lengths": torch.tensor([len(rows[index]) for index in chosen]),
                "targets": self._targets[chosen],
                "of_tokens": pad_sequence([of_tokens[index] for index in chosen], True, NO_TARGET),
                "of_pairs": self._of_pairs[chosen],
            }
            for chosen in length_buckets([len(row) for row in rows], self._run.batch, generator)
        ]

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the labels, and the weighted loss of the matching heads."""
        ids = drop_tokens(batch["rows"], self._run.token_dropout, self.model.config.eos_token_id)
        states = self.model.transformer(ids, use_cache=False, output_hidden_states=True)
        read = read_last(states[0], batch["lengths"])
        loss = target_loss(self.model.score(read), batch["targets"], Problem.SINGLE)
        first = states.hidden_states[1]
        extra = self.heads.loss(first, read, batch["of_tokens"], batch["of_pairs"])
        return loss + self._matching.weight * extra
