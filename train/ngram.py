"""The baseline of mini-lm's card: an interpolated n-gram model with modified Kneser-Ney smoothing.

Chen and Goodman, An Empirical Study of Smoothing Techniques for Language Modeling (1998), section 3: three
discounts per order, estimated from counts of counts; lower orders count distinct left contexts instead of
occurrences.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

Gram = tuple[int, ...]


class KneserNey:
    """P(token | up to order - 1 tokens before it), over token ids 0 .. vocab_size - 1."""

    def __init__(
        self, documents: Sequence[Sequence[int]], order: int, vocab_size: int, separator: int
    ) -> None:
        if order < 2:
            raise ValueError(f"order is {order}, it must be at least 2")
        self.order = order
        self.vocab_size = vocab_size
        self._separator = separator
        self._counts = self._count(documents)
        self._discounts = [discounts(counts) for counts in self._counts]
        self._contexts = [self._sum_contexts(counts) for counts in self._counts]

    def _count(self, documents: Sequence[Sequence[int]]) -> list[Counter[Gram]]:
        """Counts by length 1 .. order: occurrences at the top and at document starts, left contexts below."""
        occurrences: list[Counter[Gram]] = [Counter() for _ in range(self.order)]
        for document in documents:
            tokens = (self._separator, *document)
            for end in range(2, len(tokens) + 1):
                occurrences[-1][tokens[max(0, end - self.order) : end]] += 1
        # A shorter gram in the top counter starts its document: it has no left context and keeps its count.
        for length in range(self.order, 1, -1):
            longer = occurrences[length - 1]
            for gram in [gram for gram in longer if len(gram) < length]:
                occurrences[length - 2][gram] += longer.pop(gram)
            for gram in longer:
                occurrences[length - 2][gram[1:]] += 1
        return occurrences

    @staticmethod
    def _sum_contexts(counts: Counter[Gram]) -> dict[Gram, tuple[int, int, int, int]]:
        """For each context: the total count, and how many followers were counted once, twice, more often."""
        sums: defaultdict[Gram, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        for gram, count in counts.items():
            entry = sums[gram[:-1]]
            entry[0] += count
            entry[min(count, 3)] += 1
        return {context: (entry[0], entry[1], entry[2], entry[3]) for context, entry in sums.items()}

    def probability(self, token: int, context: Sequence[int]) -> float:
        """Interpolated from the uniform distribution upwards; unseen contexts are skipped."""
        result = 1.0 / self.vocab_size
        history = tuple(context[max(0, len(context) - self.order + 1) :])
        for length in range(1, len(history) + 2):
            before = history[len(history) - length + 1 :]
            sums = self._contexts[length - 1].get(before)
            if sums is None:
                break
            discount = self._discounts[length - 1]
            count = self._counts[length - 1].get((*before, token), 0)
            freed = sum(discount[kind] * sums[kind] for kind in (1, 2, 3))
            result = (max(0.0, count - discount[min(count, 3)]) + freed * result) / sums[0]
        return result

    def negative_log_likelihood(self, documents: Sequence[Sequence[int]]) -> tuple[float, int]:
        """Total nats and number of tokens, documents scored as in the language model's evaluation."""
        total, count = 0.0, 0
        for document in documents:
            tokens = (self._separator, *document)
            for end in range(1, len(tokens)):
                context = tokens[max(0, end - self.order + 1) : end]
                total -= math.log(self.probability(tokens[end], context))
                count += 1
        return total, count


def discounts(counts: Counter[Gram]) -> tuple[float, float, float, float]:
    """Discounts for counts 0, 1, 2 and 3 or more (Chen and Goodman, equation 26)."""
    frequency = Counter(min(count, 5) for count in counts.values())
    ones = [frequency[kind] for kind in (1, 2, 3, 4)]
    if not all(ones):
        return (0.0, 0.5, 0.5, 0.5)
    base = ones[0] / (ones[0] + 2 * ones[1])
    raised = [kind - (kind + 1) * base * after / here for kind, (here, after) in enumerate(pairwise(ones), 1)]
    clamped = [min(max(value, 0.0), float(kind)) for kind, value in enumerate(raised, 1)]
    return (0.0, clamped[0], clamped[1], clamped[2])
