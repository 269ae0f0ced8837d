"""What this project adds to GPT-2 under a head: attention to both sides of a token, and a bag of n-grams.

config.json says so: `attention` is "causal" or "bidirectional", and with `ngram_buckets` there is a bag of
the n-grams of `ngram_orders` tokens. The exporter writes both into the graph (export/graph).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, PreTrainedModel

from export.graph.ngrams import FACTORS, PRIME

BIDIRECTIONAL = "bidirectional"


def is_bidirectional(config: GPT2Config) -> bool:
    """Whether a token's attention reads the tokens after it too."""
    return bool(getattr(config, "attention", "causal") == BIDIRECTIONAL)


def body_states(body: PreTrainedModel, rows: Tensor, lengths: Tensor) -> Tensor:
    """The last hidden states of a GPT2Model: rows [batch, tokens] -> [batch, tokens, width].

    Rows are padded on the right; `lengths` [batch] are their tokens without padding.
    """
    mask = None
    if is_bidirectional(body.config):
        tokens = rows.shape[1]
        inside = torch.arange(tokens, device=rows.device) < lengths[:, None]
        # transformers takes a mask of four dimensions as it is, and then adds no causal one.
        mask = inside[:, None, None, :].expand(-1, 1, tokens, -1)
    states: Tensor = body(rows, attention_mask=mask, use_cache=False)[0]
    return states


class NgramBag(nn.Module):
    """Logits of a linear model on hashed n-grams of tokens; export/graph/ngrams.py has the formula."""

    def __init__(self, buckets: int, orders: Sequence[int], labels: int) -> None:
        super().__init__()
        self.orders = tuple(orders)
        self.weight = nn.Parameter(torch.zeros(buckets, labels))

    def forward(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """rows [batch, tokens] int64, padded on the right; lengths [batch] -> [batch, labels] float32."""
        total = self.weight.new_zeros(len(rows), self.weight.shape[1])
        number = self.weight.new_zeros(len(rows))
        for order in self.orders:
            grams = F.pad(rows, (0, order - 1)).unfold(1, order, 1)  # [batch, tokens, order]
            buckets = self.buckets(grams)
            starts = torch.arange(rows.shape[1], device=rows.device)
            inside = (starts + order <= lengths[:, None]).to(self.weight.dtype)
            total = total + torch.einsum("bt,btl->bl", inside, self.weight[buckets])
            number = number + inside.sum(dim=1)
        return total / number.clamp(min=1).sqrt()[:, None]

    def buckets(self, grams: Tensor) -> Tensor:
        """The buckets [...] of n-grams [..., order] int64."""
        order = grams.shape[-1]
        factors = torch.tensor(FACTORS[1 : order + 1], device=grams.device)
        hashed = ((grams + 1) * factors).sum(dim=-1) + order * FACTORS[0]
        return hashed % PRIME % len(self.weight)


def make_bag(config: GPT2Config, labels: int) -> NgramBag | None:
    """The bag that config.json asks for, with zeros; None where it asks for none."""
    buckets = getattr(config, "ngram_buckets", None)
    return None if not buckets else NgramBag(buckets, config.ngram_orders, labels)
