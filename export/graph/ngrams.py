"""A bag of hashed n-grams of tokens beside the body: a linear model whose logits are added to the head's.

The n-gram `t[0] .. t[k-1]` has the bucket

    (k * FACTORS[0] + (t[0] + 1) * FACTORS[1] + ... + (t[k-1] + 1) * FACTORS[k]) mod PRIME mod buckets

and a row's logits are the sum of its buckets' rows in `ngrams.weight` `[buckets, labels]`, over the square
root of the number of its n-grams. The bag is fastText's (Joulin et al., Bag of Tricks for Efficient Text
Classification, 2016); the square root is the norm of a row of counts. It is float32 in every precision.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from export.checkpoint.folder import NGRAM_TABLE, Checkpoint
from export.graph.builder import GraphBuilder
from runtime.contract import HeadGraph

PRIME = 2**31 - 1
# Random odd numbers below PRIME. A token's id has at most 22 bits, so that a sum of six has less than 56.
FACTORS = (
    1_540_483_477,
    1_103_515_245,
    1_664_525_001,
    2_027_808_453,
    1_812_433_253,
    1_289_706_101,
)


def add_ngram_logits(graph: GraphBuilder, checkpoint: Checkpoint, sequence: str, body: str) -> None:
    """Add the bag to the logits `body` of the body, as the output; nothing where the checkpoint has no bag.

    `sequence` is the padded length of a row, `[1]` int64.
    """
    if checkpoint.config.ngrams is not None:
        bag = _Bag(graph, checkpoint, sequence).logits()
        graph.node("Add", "labels", [body, bag], outputs=[HeadGraph.LOGITS])


class _Bag:
    def __init__(self, graph: GraphBuilder, checkpoint: Checkpoint, sequence: str) -> None:
        assert checkpoint.config.ngrams is not None
        self._graph = graph
        self._ngrams = checkpoint.config.ngrams
        self._sequence = sequence
        self._table = graph.weight(NGRAM_TABLE, checkpoint.weight(NGRAM_TABLE))

    # buckets -- Gather --+
    # inside -------------+-- MatMul -- [batch, 1, labels] -- (+ other orders) -- / sqrt(number) -- output
    def logits(self) -> str:
        graph = self._graph
        padded, starts, lengths = self._padded(), self._starts(), self._lengths()
        sums: list[str] = []
        counts: list[str] = []
        for order in self._ngrams.orders:
            path = f"ngrams.{order}"
            ends = graph.node("Add", f"{path}.ends", [starts, graph.integers(order)])
            within = graph.node("LessOrEqual", f"{path}.within", [ends, lengths])
            inside = graph.node("Cast", f"{path}.inside", [within], to=TensorProto.FLOAT)
            counts.append(graph.node("ReduceSum", f"{path}.count", [inside, graph.integers(1)], keepdims=1))
            row = graph.node("Unsqueeze", f"{path}.row", [inside, graph.integers(1)])
            rows = graph.node("Gather", path, [self._table, self._buckets(path, padded, order)])
            sums.append(graph.node("MatMul", f"{path}.sum", [row, rows]))
        summed = graph.node("Squeeze", "ngrams.sum", [self._total("sums", sums), graph.integers(1)])
        one = graph.weight("ngrams.one", np.array(1, np.float32))
        number = graph.node("Max", "ngrams.number", [self._total("counts", counts), one])
        return graph.node("Div", "ngrams", [summed, graph.node("Sqrt", "ngrams.root", [number])])

    def _buckets(self, path: str, padded: str, order: int) -> str:
        """`[batch, sequence]`: of the n-gram that begins at each token."""
        graph = self._graph
        total = self._number(order * FACTORS[0])
        for place in range(order):
            ends = graph.node("Add", f"{path}.{place}.end", [self._sequence, graph.integers(place)])
            begins = graph.integers(place)
            tokens = graph.node("Slice", f"{path}.{place}", [padded, begins, ends, graph.integers(1)])
            hashed = graph.node("Mul", f"{path}.{place}.hashed", [tokens, self._number(FACTORS[place + 1])])
            total = graph.node("Add", f"{path}.{place}.total", [total, hashed])
        rest = graph.node("Mod", f"{path}.rest", [total, self._number(PRIME)])
        return graph.node("Mod", f"{path}.buckets", [rest, self._number(self._ngrams.buckets)])

    def _padded(self) -> str:
        """The ids, plus one, with as many more columns as the longest n-gram needs."""
        graph = self._graph
        raised = graph.node("Add", "ngrams.ids", [HeadGraph.INPUT_IDS, self._number(1)])
        batch = graph.node("Shape", "ngrams.batch", [HeadGraph.LENGTHS])
        more = graph.integers(max(self._ngrams.orders) - 1)
        shape = graph.node("Concat", "ngrams.shape", [batch, more], axis=0)
        zeros = graph.node("Expand", "ngrams.zeros", [self._number(0), shape])
        return graph.node("Concat", "ngrams.padded", [raised, zeros], axis=1)

    def _starts(self) -> str:
        """`[sequence]`: 0, 1, 2, ..."""
        graph = self._graph
        limit = graph.node("Squeeze", "ngrams.limit", [self._sequence])
        return graph.node("Range", "ngrams.starts", [self._number(0), limit, self._number(1)])

    def _lengths(self) -> str:
        """`[batch, 1]`"""
        return self._graph.node("Unsqueeze", "ngrams.lengths", [HeadGraph.LENGTHS, self._graph.integers(1)])

    def _total(self, path: str, parts: list[str]) -> str:
        total = parts[0]
        for index, part in enumerate(parts[1:]):
            total = self._graph.node("Add", f"ngrams.{path}.{index}", [total, part])
        return total

    def _number(self, value: int) -> str:
        return self._graph.weight(f"scalar.{value}", np.array(value, np.int64))
