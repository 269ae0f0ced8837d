"""A bag of hashed n-grams of tokens beside the body: a linear model whose logits are added to the head's.

The n-gram `t[0] .. t[k-1]` has the bucket

    (k * FACTORS[0] + (t[0] + 1) * FACTORS[1] + ... + (t[k-1] + 1) * FACTORS[k]) mod PRIME mod buckets

and a row's logits are the sum of its buckets' rows in `ngrams.weight` `[buckets, labels]`, over the square
root of the number of its n-grams. A bag of pairs (`ngram_pairs`) reads the second text, from the token that
ends the first one on; a token that the first text lacks counts as its id plus the size of the vocabulary, so
that the n-grams say which words are new. The bag is fastText's (Joulin et al., Bag of Tricks for Efficient
Text Classification, 2016); the square root is the norm of a row of counts. It is float32 in every precision.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from export.checkpoint.folder import NGRAM_TABLE, Checkpoint
from export.graph.builder import GraphBuilder
from runtime.contract import HeadGraph

PRIME = 2**31 - 1
PAIR_NODE = "pairs.second"  # is in the graph of a bag that reads pairs
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
        self._config = checkpoint.config
        self._graph = graph
        self._ngrams = checkpoint.config.ngrams
        self._sequence = sequence
        self._table = graph.weight(NGRAM_TABLE, checkpoint.weight(NGRAM_TABLE))

    # buckets -- Gather --+
    # inside -------------+-- MatMul -- [batch, 1, labels] -- (+ other orders) -- / sqrt(number) -- output
    def logits(self) -> str:
        graph = self._graph
        ids, readable = self._marked() if self._ngrams.pairs else (HeadGraph.INPUT_IDS, "")
        padded, starts, lengths = self._padded(ids), self._starts(), self._lengths()
        sums: list[str] = []
        counts: list[str] = []
        for order in self._ngrams.orders:
            path = f"ngrams.{order}"
            ends = graph.node("Add", f"{path}.ends", [starts, graph.integers(order)])
            within = graph.node("LessOrEqual", f"{path}.within", [ends, lengths])
            if readable:
                within = graph.node("And", f"{path}.readable", [within, readable])
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

    # ids -- Equal end -- CumSum -- first text, second text
    # ids == ids of the first text -- ReduceMax -- known -- ids + vocabulary * new
    def _marked(self) -> tuple[str, str]:
        """`[batch, sequence]`: the marked ids, and whether an n-gram can begin at a token."""
        graph, ids = self._graph, HeadGraph.INPUT_IDS
        ends = graph.node("Equal", "pairs.ends", [ids, self._number(self._config.eos_token_id or 0)])
        ended = graph.node("Cast", "pairs.ended", [ends], to=TensorProto.INT64)
        passed = graph.node("CumSum", "pairs.passed", [ended, self._number(1)])
        second = graph.node("Greater", PAIR_NODE, [passed, self._number(0)])
        first = graph.node("Not", "pairs.first", [second])
        column = graph.node("Unsqueeze", "pairs.column", [ids, graph.integers(2)])
        row = graph.node("Unsqueeze", "pairs.row", [ids, graph.integers(1)])
        same = graph.node("Equal", "pairs.same", [column, row])
        there = graph.node("Unsqueeze", "pairs.there", [first, graph.integers(1)])
        both = graph.node("And", "pairs.both", [same, there])
        number = graph.node("Cast", "pairs.number", [both], to=TensorProto.INT32)
        most = graph.node("ReduceMax", "pairs.most", [number, graph.integers(2)], keepdims=0)
        known = graph.node("Cast", "pairs.known", [most], to=TensorProto.BOOL)
        old = graph.node("Or", "pairs.old", [graph.node("Or", "pairs.unmarked", [known, first]), ends])
        new = graph.node(
            "Cast", "pairs.new", [graph.node("Not", "pairs.not_old", [old])], to=TensorProto.INT64
        )
        raised = graph.node("Mul", "pairs.raised", [new, self._number(self._config.vocab_size)])
        return graph.node("Add", "pairs.ids", [ids, raised]), second

    def _padded(self, ids: str) -> str:
        """The ids, plus one, with as many more columns as the longest n-gram needs."""
        graph = self._graph
        raised = graph.node("Add", "ngrams.ids", [ids, self._number(1)])
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
