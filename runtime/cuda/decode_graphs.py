"""Decode steps on a device as CUDA graphs, one for each number of slots, and draws as others.

| what varies from step to step  | how it is fixed                                                           |
| ------------------------------ | ------------------------------------------------------------------------- |
| running sequences              | slots 0 up to the next power of two run; some of them are padding         |
| where padding slots write      | `KvCache.padding_row`                                                     |
| rows of logits that are wanted | as many as slots; those beyond are row 0 once more                        |
| total_sequence_length, on the  | the context length: GroupQueryAttention's CUDA kernel reads a row's       |
| host                           | length from seqlens_k, and splits its work by total_sequence_length       |
|                                | (onnxruntime/contrib_ops/cuda/bert/group_query_attention.cc)              |

A step is one launch, with the best token of each row. A second one draws, if some row is drawn. Logits stay
on the device; the rows of a sequence that neither serves (top-p, penalties, alternatives) come to the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kernels.fusion import ARGMAX, LOG_SUM
from runtime.contract import LmGraph
from runtime.cuda.captured import DrawRuns, ModelRuns, Shape
from runtime.cuda.sampling import (
    DRAWN,
    DRAWN_LOGIT,
    INVERSE_TEMPERATURE,
    MAX_TOP_K,
    MIN_P,
    PEAK,
    TOP_K,
    UNIFORM,
)
from runtime.errors import RequestFault
from runtime.kv_cache import KvCache
from runtime.sampling import Sampled, SequenceSampler
from runtime.scheduler import Decode

Floats = NDArray[np.float32]


def bucket(count: int, num_slots: int) -> int:
    """The number of slots that run if `count` are needed."""
    return min(1 << (count - 1).bit_length(), num_slots)


class DecodeGraphs:
    def __init__(self, runs: ModelRuns, draws: DrawRuns, cache: KvCache) -> None:
        self._runs = runs
        self._draws = draws
        self._cache = cache
        self._inputs, self._outputs = runs.inputs.arrays, runs.outputs.arrays
        self._max_top_k = min(MAX_TOP_K, runs.logits.vocab)

    def capture(self) -> None:
        """Record all graphs; no slot is taken yet."""
        for power in range(self._cache.num_slots.bit_length() + 1):
            self._step(Decode([], []), bucket(1 << power, self._cache.num_slots), drawn=True)
            self._runs.stream.wait()

    def run(self, batch: Decode, samplers: Sequence[SequenceSampler]) -> list[Sampled | RequestFault]:
        """The next token of each wanted row, or the fault of its request."""
        on_host = [not sampler.can_sample_in_graph(self._max_top_k) for sampler in samplers]
        drawn = [row for row, sampler in enumerate(samplers) if not on_host[row] and not sampler.takes_best]
        self._write_draws(samplers, drawn)
        self._step(batch, bucket(len(batch.rows), self._cache.num_slots), drawn=bool(drawn))
        self._runs.outputs.pull()
        rows = {row: self._runs.logits.pull(1, row)[0] for row, host in enumerate(on_host) if host}
        self._runs.stream.wait()
        return self._results(samplers, drawn, rows)

    def _step(self, batch: Decode, count: int, *, drawn: bool) -> None:
        self._write_rows(batch, count)
        self._runs.inputs.push()
        self._runs.run(Shape(0, count, 1, self._cache.context_length))
        if drawn:
            self._draws.run(count)

    def _write_rows(self, batch: Decode, count: int) -> None:
        arrays, rows = self._inputs, len(batch.rows)
        padding = [self._cache.padding_row(slot) for slot in range(rows, count)]
        positions = [sequence.computed for sequence in batch.rows] + padding
        arrays[LmGraph.INPUT_IDS][:rows] = [sequence.tokens[sequence.computed] for sequence in batch.rows]
        arrays[LmGraph.INPUT_IDS][rows:count] = 0
        arrays[LmGraph.POSITION_IDS][:count] = positions
        arrays[LmGraph.SEQLENS_K][:count] = positions
        arrays[LmGraph.LOGIT_ROWS][:count] = batch.wanted + [0] * (count - len(batch.wanted))

    def _write_draws(self, samplers: Sequence[SequenceSampler], drawn: list[int]) -> None:
        """The graph draws the other rows too; their draw is not used."""
        for row in drawn:
            parameters = samplers[row].parameters
            self._inputs[INVERSE_TEMPERATURE][row] = 1.0 / parameters.temperature
            self._inputs[TOP_K][row] = parameters.top_k
            self._inputs[MIN_P][row] = parameters.min_p
            self._inputs[UNIFORM][row] = samplers[row].uniform()

    def _results(
        self, samplers: Sequence[SequenceSampler], drawn: list[int], rows: Mapping[int, Floats]
    ) -> list[Sampled | RequestFault]:
        """`rows` are the logits of those that the host chooses."""
        arrays, count = self._outputs, len(samplers)
        # In one piece: a value of an array costs more than one of a list.
        tokens, logits, sums = (arrays[name][:count].tolist() for name in (ARGMAX, PEAK, LOG_SUM))
        for row in drawn:
            tokens[row], logits[row] = int(arrays[DRAWN][row]), float(arrays[DRAWN_LOGIT][row])
        chosen = zip(samplers, tokens, logits, sums, strict=True)
        return [_result(*one, rows.get(row)) for row, one in enumerate(chosen)]


def _result(
    sampler: SequenceSampler, token: int, logit: float, log_sum: float, row: Floats | None
) -> Sampled | RequestFault:
    try:
        if row is None:
            return sampler.from_graph(token, logit, log_sum)
        return sampler.sample(row, token, log_sum)
    except RequestFault as fault:
        return fault
