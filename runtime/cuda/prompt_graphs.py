"""Chunks of prompts on a device as CUDA graphs: by slot, by length, and by whether tokens lie before.

Without them ONNX Runtime's dispatch takes longer than the device. A chunk is filled up to the next length
with tokens behind it, which no token of the prompt attends to. Their keys and values lie in rows of the
sequence's own slot that hold nothing yet, and are written again before they are read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.fusion import ARGMAX, LOG_SUM
from runtime.contract import LmGraph
from runtime.cuda.captured import ModelRuns, Shape
from runtime.kv_cache import KvCache
from runtime.scheduler import Prefill

SHORTEST = 32  # tokens


def padded(count: int, most: int) -> int:
    """The number of tokens that run if `count` are needed, of `most` in a chunk."""
    return min(max(SHORTEST, 1 << (count - 1).bit_length()), max(most, count))


class PromptGraphs:
    """Chunks whose last row of logits is all that is wanted; the others run without a CUDA graph."""

    def __init__(self, runs: ModelRuns, cache: KvCache, most: int) -> None:
        """A chunk has `most` tokens at most."""
        self._runs = runs
        self._context = cache.context_length
        self._most = min(most, cache.context_length)

    def fits(self, batch: Prefill) -> bool:
        """It has one chunk: without rows of different lengths the scheduler makes no others."""
        (chunk,) = batch.chunks
        end = chunk.sequence.computed + padded(chunk.count, self._most)
        return chunk.num_wanted <= 1 and not batch.embeds and end <= self._context

    def capture(self) -> None:
        """Record one slot's graphs, which no sequence has yet; those of other slots follow when needed."""
        counts = (min(1 << power, self._most) for power in range(self._most.bit_length() + 1))
        lengths = {padded(count, self._most) for count in counts}
        for length in sorted(lengths):
            self._run([0] * length, 0, 0, length)
            self._runs.stream.wait()
            if 2 * length <= self._context:
                self._run([0] * length, length, 0, length)
                self._runs.stream.wait()

    def run(self, batch: Prefill) -> tuple[NDArray[np.float32], int, float]:
        """The last row if it is wanted `[1, vocab]`, else `[0, vocab]`; its best token and `log_sum`.

        The next run overwrites the row.
        """
        (chunk,) = batch.chunks
        sequence, start = chunk.sequence, chunk.sequence.computed
        tokens = sequence.tokens[start : start + chunk.count]
        self._run(tokens, start, sequence.slot, padded(chunk.count, self._most))
        rows = self._runs.logits.pull(chunk.num_wanted)
        self._runs.outputs.pull()
        self._runs.stream.wait()
        found = self._runs.outputs.arrays
        return rows, int(found[ARGMAX][0]), float(found[LOG_SUM][0])

    def _run(self, tokens: list[int], start: int, slot: int, length: int) -> None:
        arrays, count = self._runs.inputs.arrays, len(tokens)
        arrays[LmGraph.INPUT_IDS][:count] = tokens
        arrays[LmGraph.INPUT_IDS][count:length] = 0
        arrays[LmGraph.POSITION_IDS][:length] = range(start, start + length)
        arrays[LmGraph.SEQLENS_K][0] = start + length - 1
        arrays[LmGraph.LOGIT_ROWS][0] = count - 1
        self._runs.inputs.push()
        # GroupQueryAttention compares it with the length of the row: is anything before?
        total = self._context if start else length
        self._runs.run(Shape(slot, 1, length, total))
