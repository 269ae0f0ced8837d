"""Training of a classifier of pairs that also learns which tokens of the second text the first one has.

From labels alone a small model learns the second text by heart and hardly looks at the first. Three things
change that: heads of the first block that start by looking for the same token (after Trockman and Kolter,
Mimetic initialization of self-attention layers, 2023), targets for the matching itself, and the soft
predictions of a teacher. Only the weights of the classifier are kept.
"""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2ForSequenceClassification

from train.batching import length_buckets, pad
from train.data import Example
from train.heads import Augment, HeadRun, classifier_accuracy, drop_tokens
from train.optimization import make_optimizers, take_step
from train.overlap import NO_TARGET, PAIR_TARGETS, TOKEN_TARGETS, pair_targets, teach, token_targets

log = logging.getLogger(__name__)

# A token's attention logit for an equal token, at the start.
MATCH_LOGIT = 7.0


@dataclass(frozen=True)
class Matching:
    """How much of the training is about matching."""

    heads: int = 2
    weight: float = 0.3
    rate: float = 3e-3
    # Share of the teacher in the targets.
    teacher: float = 0.5


@torch.no_grad()
def look_for_equal_tokens(model: GPT2ForSequenceClassification, heads: int) -> None:
    """Let the last heads of the first block use one random projection for queries and keys."""
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
    """Read the matching targets off the first block's tokens and off the last token; dropped afterwards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = torch.nn.Linear(width, TOKEN_TARGETS)
        self.pair = torch.nn.Linear(width, PAIR_TARGETS)

    def loss(self, first: Tensor, last: Tensor, of_tokens: Tensor, of_pairs: Tensor) -> Tensor:
        """Binary cross-entropy of both; `first` is [rows, tokens, width], `last` [rows, width]."""
        known = of_tokens != NO_TARGET
        by_token = F.binary_cross_entropy_with_logits(self.tokens(first).float()[known], of_tokens[known])
        return by_token + F.binary_cross_entropy_with_logits(self.pair(last).float(), of_pairs)


def train_pair_classifier(
    model: GPT2ForSequenceClassification,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    run: HeadRun,
    augment: Augment,
    matching: Matching,
) -> float:
    """Train in place; ends with the epoch that is best on `held_out`, whose accuracy is returned."""
    torch.manual_seed(run.seed)
    generator = np.random.default_rng(run.seed)
    look_for_equal_tokens(model, matching.heads)
    heads = MatchingHeads(model.config.n_embd)
    labels = F.one_hot(torch.tensor([e.label for e in examples]), model.config.num_labels).float()
    targets = torch.lerp(labels, teach(examples), matching.teacher)
    of_pairs = torch.tensor([pair_targets(e) for e in examples])
    schedule = run.schedule(len(examples))
    optimizers = make_optimizers(model, schedule)
    heads_optimizer = torch.optim.AdamW(heads.parameters(), lr=matching.rate)
    closing, padding = model.config.eos_token_id, model.config.pad_token_id
    best, best_state, step = -1.0, copy.deepcopy(model.state_dict()), 0
    for epoch in range(run.epochs):
        model.train()
        changed = [augment(e, generator) for e in examples]
        encodings = tokenizer.encode_batch([(e.text, e.pair) for e in changed])
        rows = [encoding.ids for encoding in encodings]
        of_tokens = [token_targets(e, c, closing) for e, c in zip(changed, encodings, strict=True)]
        for chosen in length_buckets([len(row) for row in rows], run.batch, generator):
            ids = pad([rows[index] for index in chosen], padding)
            last = torch.tensor([len(rows[index]) - 1 for index in chosen])
            wanted = torch.nn.utils.rnn.pad_sequence([of_tokens[index] for index in chosen], True, NO_TARGET)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                states = model.transformer(
                    drop_tokens(ids, run.token_dropout, closing), use_cache=False, output_hidden_states=True
                )
                read = states[0][torch.arange(len(ids)), last]
                loss = F.cross_entropy(model.score(read).float(), targets[chosen])
                extra = heads.loss(states.hidden_states[1], read, wanted, of_pairs[chosen])
                loss = loss + matching.weight * extra
            take_step(model, loss, optimizers, schedule, step)
            heads_optimizer.step()
            heads_optimizer.zero_grad()
            step += 1
        figure = classifier_accuracy(model, tokenizer, held_out)
        log.info("epoch %d loss %.3f held-out accuracy %.4f", epoch + 1, loss.item(), figure)
        if figure > best:
            best, best_state = figure, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_state)
    return best
