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
from train.head_parts import attention_mask, look_at_neighbours
from train.heads import (
    Augment,
    ClassifierTraining,
    HeadRun,
    drop_tokens,
    label_logits,
    read_last,
    target_loss,
)
from train.overlap import NO_TARGET, PAIR_TARGETS, TOKEN_TARGETS, pair_targets, teach, token_targets

# Initial attention logit between equal tokens.
MATCH_LOGIT = 12.0
# Subtracted from the logit of a token with itself.
SELF_LOGIT = 11.0


@dataclass(frozen=True)
class Matching:
    """The weight of matching in the training."""

    heads: int = 2
    weight: float = 0.3
    # Share of the teacher's predictions in the targets.
    teacher: float = 0.5


@torch.no_grad()
def look_for_equal_tokens(model: GPT2ForSequenceClassification, heads: int) -> None:
    """Initialize the last heads of the first block to read the same token at another place.

    It follows `look_at_neighbours`. Half of the queries and keys is one random projection of the tokens. The
    other half has every second wave of the position, negative in the queries: else each token would read
    itself, whether or not the other text has it.
    """
    body, width = model.transformer, model.config.n_embd
    size = width // model.config.n_head
    half = size // 2
    weight, bias = body.h[0].attn.c_attn.weight, body.h[0].attn.c_attn.bias
    states = body.h[0].ln_1(body.wte.weight[1:] + body.wpe.weight[1])
    waves = torch.arange(size).view(-1, 2)[::2].flatten()
    token_square, wave_square = ((x**2).sum(dim=1).mean() for x in (states[:, size:], states[:, waves]))
    wave_scale = (SELF_LOGIT * size**0.5 / wave_square) ** 0.5
    token_scale = (MATCH_LOGIT * size**0.5 / token_square / half) ** 0.5
    for head in range(model.config.n_head - heads, model.config.n_head):
        projection = token_scale * torch.randn(width - size, half)
        for first, sign in ((head * size, -1), (width + head * size, 1)):
            weight[:, first : first + size] = 0
            bias[first : first + size] = 0
            weight[size:, first : first + half] = projection
            weight[waves, first + half : first + size] = sign * wave_scale * torch.eye(half)


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
        look_at_neighbours(model.transformer)
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
        body = self.model.transformer
        mask = attention_mask(self.model.config, ids, batch["lengths"])
        states = body(ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
        read = read_last(states[0], batch["lengths"])
        logits = label_logits(self.model, states[0], batch["rows"], batch["lengths"])
        loss = target_loss(logits, batch["targets"], Problem.SINGLE)
        first = states.hidden_states[1]
        extra = self.heads.loss(first, read, batch["of_tokens"], batch["of_pairs"])
        return loss + self._matching.weight * extra
