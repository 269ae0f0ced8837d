"""What this project adds to GPT-2 under a head: attention to both sides of a token, and a bag of n-grams.

config.json says so: `attention` is "causal" or "bidirectional", and with `ngram_buckets` there is a bag of
the n-grams of `ngram_orders` tokens; with `ngram_pairs` it compares two texts. The exporter writes them into
the graph (export/graph).
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, PreTrainedModel

from export.graph.ngrams import FACTORS, PRIME

BIDIRECTIONAL = "bidirectional"
# Where the first heads of each block look at the start, in tokens after their own.
NEIGHBOURS = (-1, 1, -2, 2)
NEIGHBOURS_BEFORE = (-1, -2, -3, -4)
# Of their queries and keys.
NEIGHBOUR_SCALE = 0.7


def is_bidirectional(config: GPT2Config) -> bool:
    """Whether a token's attention reads the tokens after it too."""
    return bool(getattr(config, "attention", "causal") == BIDIRECTIONAL)


def reads_pairs(config: GPT2Config) -> bool:
    """Whether the bag reads the second of two texts, with marks on what is new in it."""
    return bool(getattr(config, "ngram_pairs", False))


def attention_mask(config: GPT2Config, rows: Tensor, lengths: Tensor) -> Tensor | None:
    """What transformers needs for `rows` [batch, tokens] of `lengths` [batch], padded on the right.

    None where attention is causal, since padding comes last.
    """
    if not is_bidirectional(config):
        return None
    tokens = rows.shape[1]
    inside = torch.arange(tokens, device=rows.device) < lengths[:, None]
    # transformers takes a mask of four dimensions as it is, and then adds no causal one.
    return inside[:, None, None, :].expand(-1, 1, tokens, -1)


def body_states(body: PreTrainedModel, rows: Tensor, lengths: Tensor) -> Tensor:
    """The last hidden states of a GPT2Model: rows [batch, tokens] -> [batch, tokens, width].

    Rows are padded on the right; `lengths` [batch] are their tokens without padding.
    """
    mask = attention_mask(body.config, rows, lengths)
    states: Tensor = body(rows, attention_mask=mask, use_cache=False)[0]
    return states


@torch.no_grad()
def look_at_neighbours(body: PreTrainedModel) -> None:
    """Initialize a GPT2Model so that two thirds of the heads of each block read the tokens next to a token.

    Few rows do not teach what is near. Position p starts as cos(w p) and sin(w p) of as many frequencies w
    as fit into a head, in the first places of its row. Keys of these heads are the positions, queries the
    positions moved by a distance, so that their product is highest there. Training can change all of
    it. After Trockman and Kolter, Mimetic initialization of self-attention layers, 2023.
    """
    width, heads = body.config.n_embd, body.config.n_head
    size = width // heads // 2 * 2
    places = torch.arange(size // 2)
    # One frequency in each of equal parts of 0 to pi, so that no other distance has the same waves.
    frequencies = math.pi * (places + places * (5**0.5 - 1) / 2 % 1) / len(places)
    angles = torch.arange(body.config.n_positions)[:, None] * frequencies
    waves = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1)
    body.wpe.weight.zero_()
    # A row of `wpe` is as long as one of `wte` is on average.
    body.wpe.weight[:, :size] = waves * body.config.initializer_range * (2 * width / size) ** 0.5
    neighbours = NEIGHBOURS if is_bidirectional(body.config) else NEIGHBOURS_BEFORE
    for head, distance in enumerate(neighbours[: heads // 3 * 2]):
        for first, moved in ((head * (width // heads), distance), (width + head * (width // heads), 0)):
            for block in body.h:
                block.attn.c_attn.weight[:, first : first + size] = 0
                block.attn.c_attn.weight[:size, first : first + size] = NEIGHBOUR_SCALE * _turn(
                    frequencies * moved
                )


def _turn(angles: Tensor) -> Tensor:
    """A matrix of rotations: waves at p times this matrix are the waves at p + distance."""
    even = torch.arange(0, 2 * len(angles), 2)
    turned = torch.zeros(2 * len(angles), 2 * len(angles))
    turned[even, even] = turned[even + 1, even + 1] = angles.cos()
    turned[even, even + 1] = angles.sin()
    turned[even + 1, even] = -angles.sin()
    return turned


class NgramBag(nn.Module):
    """Logits of a linear model on hashed n-grams of tokens; export/graph/ngrams.py has the formula.

    A bag that `train.bag_fitting` has fitted is half of an answer: the mean of the linear model and the body.
    """

    def __init__(
        self, buckets: int, orders: Sequence[int], labels: int, pairs: tuple[int, int] | None = None
    ) -> None:
        """`pairs`, of a bag that reads pairs: the token that ends a text, and the size of the vocabulary."""
        super().__init__()
        self.orders = tuple(orders)
        self.pairs = pairs
        self.weight = nn.Parameter(torch.zeros(buckets, labels))
        self.fitted = False

    def forward(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """rows [batch, tokens] int64, padded on the right; lengths [batch] -> [batch, labels] float32."""
        total = self.weight.new_zeros(len(rows), self.weight.shape[1])
        number = self.weight.new_zeros(len(rows))
        for buckets, within in self.places(rows, lengths):
            inside = within.to(self.weight.dtype)
            total = total + torch.einsum("bt,btl->bl", inside, self.weight[buckets])
            number = number + inside.sum(dim=1)
        return total / number.clamp(min=1).sqrt()[:, None]

    def added_to(self, logits: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        """The head's logits [batch, labels] plus the bag's.

        In training a fitted bag is left out, and the body learns with twice its logits: as the only model.
        """
        if self.fitted and self.training:
            return 2 * logits
        total: Tensor = logits + self(rows, lengths)
        return total

    def places(self, rows: Tensor, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For each order: the buckets [batch, tokens] of the n-grams that begin at each token, and a mask."""
        starts = torch.arange(rows.shape[1], device=rows.device)
        for grams in self.grams(rows):
            inside = starts + grams.shape[-1] <= lengths[:, None]
            if self.pairs is not None:
                inside = inside & self._second(rows)
            yield self.buckets(grams), inside

    def grams(self, rows: Tensor) -> Iterator[Tensor]:
        """For each order: the n-grams [batch, tokens, order] that begin at each token of rows."""
        marked = rows if self.pairs is None else self._marked(rows)
        for order in self.orders:
            yield F.pad(marked, (0, order - 1)).unfold(1, order, 1)

    def _second(self, rows: Tensor) -> Tensor:
        """[batch, tokens] bool: from the token that ends the first text on."""
        assert self.pairs is not None
        return (rows == self.pairs[0]).cumsum(dim=1) > 0

    def _marked(self, rows: Tensor) -> Tensor:
        """The rows, with a mark on the tokens of the second text that the first lacks."""
        assert self.pairs is not None
        end, vocabulary = self.pairs
        second = self._second(rows)
        known = ((rows[:, :, None] == rows[:, None, :]) & ~second[:, None, :]).any(dim=2)
        return rows + vocabulary * (second & ~known & (rows != end))

    def buckets(self, grams: Tensor) -> Tensor:
        """The buckets [...] of n-grams [..., order] int64."""
        order = grams.shape[-1]
        factors = torch.tensor(FACTORS[1 : order + 1], device=grams.device)
        hashed = ((grams + 1) * factors).sum(dim=-1) + order * FACTORS[0]
        return hashed % PRIME % len(self.weight)


def make_bag(config: GPT2Config, labels: int) -> NgramBag | None:
    """The bag that config.json asks for, with zeros; None where it asks for none."""
    buckets = getattr(config, "ngram_buckets", None)
    pairs = (config.eos_token_id, config.vocab_size) if reads_pairs(config) else None
    return None if not buckets else NgramBag(buckets, config.ngram_orders, labels, pairs)
