"""Decode steps on a device as CUDA graphs: one for each number of slots and each way to choose tokens.

A captured run reads and writes fixed addresses and nothing else. So only the values at these addresses vary:

| what varies from step to step  | how it is fixed                                                           |
| ------------------------------ | ------------------------------------------------------------------------- |
| running sequences              | slots 0 up to the next power of two run; some of them are padding         |
| where padding slots write      | `KvCache.padding_row`                                                     |
| rows of logits that are wanted | as many as slots; those beyond are row 0 once more                        |
| total_sequence_length, on the  | the context length: GroupQueryAttention's CUDA kernel reads a row's       |
| host                           | length from seqlens_k, and splits its work by total_sequence_length       |
|                                | (onnxruntime/contrib_ops/cuda/bert/group_query_attention.cc)              |
| greedy, or some row is drawn   | two graphs: the greedy one lacks the nodes that draw                      |

ONNX Runtime runs a new `gpu_graph_id` more than once before it replays: a step writes the same rows each
time. A graph belongs to the thread that captured it, and one thread runs all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import DTypeLike

from kernels.fusion import ARGMAX, LOG_SUM
from runtime.contract import LmGraph
from runtime.cuda.sampling import DRAWN, DRAWN_LOGIT, INVERSE_TEMPERATURE, MIN_P, PEAK, TOP_K, UNIFORM
from runtime.errors import RequestFault
from runtime.kv_cache import KvCache
from runtime.memory import HostArrays
from runtime.sampling import Sampled, SequenceSampler
from runtime.scheduler import Decode

BindCache = Callable[[Any, int, int], None]  # a binding, the first slot, how many

# In addition to those of the graph itself; one value for each row.
SAMPLING_INPUTS: dict[str, DTypeLike] = {
    INVERSE_TEMPERATURE: np.float32,
    TOP_K: np.int64,
    MIN_P: np.float32,
    UNIFORM: np.float64,
}
SAMPLING_OUTPUTS: dict[str, DTypeLike] = {
    ARGMAX: np.int64,
    LOG_SUM: np.float32,
    PEAK: np.float32,
    DRAWN: np.int64,
    DRAWN_LOGIT: np.float32,
}
GREEDY_OUTPUTS = (ARGMAX, LOG_SUM, PEAK)


def bucket(count: int, num_slots: int) -> int:
    """The number of slots that run if `count` are needed."""
    return min(1 << (count - 1).bit_length(), num_slots)


def run_options(graph_id: int) -> onnxruntime.RunOptions:
    """Options of a run that records or replays the CUDA graph `graph_id`; -1: it does neither."""
    options = onnxruntime.RunOptions()
    # Skips the vocabulary matrix if no row of logits is wanted, as in the first chunks of a prompt.
    options.only_execute_path_to_fetches = True
    # onnxruntime's Python API looks for this entry at every run; without it, an exception costs 60 us.
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options


class DecodeGraphs:
    """Decode steps of one session over one cache; the graph chooses the tokens."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        cache: KvCache,
        inputs: HostArrays,
        outputs: HostArrays,
        bind_cache: BindCache,
    ) -> None:
        self._session = session
        self._cache = cache
        self._inputs = inputs
        self._outputs = outputs
        self._bind_cache = bind_cache
        self._total = np.array(cache.context_length, np.int32)
        self._graphs: dict[tuple[int, bool], tuple[Any, onnxruntime.RunOptions]] = {}

    def run(self, batch: Decode, samplers: Sequence[SequenceSampler]) -> list[Sampled | RequestFault]:
        """The next token of each wanted row; the graph can choose for all `samplers`."""
        count = bucket(len(batch.rows), self._cache.num_slots)
        drawn = not all(sampler.takes_best for sampler in samplers)
        self._write_rows(batch, count)
        if drawn:
            self._write_draws(samplers)
        self._inputs.push()
        binding, options = self._graph(count, drawn)
        self._session.run_with_iobinding(binding, options)
        self._outputs.pull()
        return [self._result(row, sampler) for row, sampler in enumerate(samplers)]

    def _write_rows(self, batch: Decode, count: int) -> None:
        arrays, rows = self._inputs.arrays, len(batch.rows)
        padding = [self._cache.padding_row(slot) for slot in range(rows, count)]
        positions = [sequence.computed for sequence in batch.rows] + padding
        arrays[LmGraph.INPUT_IDS][:rows] = [sequence.tokens[sequence.computed] for sequence in batch.rows]
        arrays[LmGraph.INPUT_IDS][rows:count] = 0
        arrays[LmGraph.POSITION_IDS][:count] = positions
        arrays[LmGraph.SEQLENS_K][:count] = positions
        arrays[LmGraph.LOGIT_ROWS][:count] = batch.wanted + [0] * (count - len(batch.wanted))

    def _write_draws(self, samplers: Sequence[SequenceSampler]) -> None:
        """Greedy rows are drawn too; their draw is not used."""
        arrays = self._inputs.arrays
        for row, sampler in enumerate(samplers):
            if not sampler.takes_best:
                parameters = sampler.parameters
                arrays[INVERSE_TEMPERATURE][row] = 1.0 / parameters.temperature
                arrays[TOP_K][row] = parameters.top_k
                arrays[MIN_P][row] = parameters.min_p
                arrays[UNIFORM][row] = sampler.uniform()

    def _result(self, row: int, sampler: SequenceSampler) -> Sampled | RequestFault:
        arrays = self._outputs.arrays
        token, logit = (ARGMAX, PEAK) if sampler.takes_best else (DRAWN, DRAWN_LOGIT)
        try:
            return sampler.from_graph(
                int(arrays[token][row]), float(arrays[logit][row]), float(arrays[LOG_SUM][row])
            )
        except RequestFault as fault:
            return fault

    def _graph(self, count: int, drawn: bool) -> tuple[Any, onnxruntime.RunOptions]:
        found = self._graphs.get((count, drawn))
        if found is None:
            binding = self._session.io_binding()
            self._bind(binding, count, drawn)
            found = self._graphs[count, drawn] = binding, run_options(1 + len(self._graphs))
        return found

    def _bind(self, binding: Any, count: int, drawn: bool) -> None:
        inputs, outputs = self._inputs, self._outputs
        shapes = {
            LmGraph.INPUT_IDS: (count, 1),
            LmGraph.POSITION_IDS: (count, 1),
            LmGraph.SEQLENS_K: (count,),
            LmGraph.LOGIT_ROWS: (count,),
            **dict.fromkeys(SAMPLING_INPUTS, (count, 1)),
        }
        for name, shape in shapes.items():
            element = inputs.arrays[name].dtype.type
            binding.bind_input(name, inputs.device, 0, element, shape, inputs.address(name))
        total = self._total
        binding.bind_input(LmGraph.TOTAL_SEQUENCE_LENGTH, "cpu", 0, total.dtype.type, (), total.ctypes.data)
        self._bind_cache(binding, 0, count)
        for name in SAMPLING_OUTPUTS if drawn else GREEDY_OUTPUTS:
            element = outputs.arrays[name].dtype.type
            binding.bind_output(name, outputs.device, 0, element, (count,), outputs.address(name))
