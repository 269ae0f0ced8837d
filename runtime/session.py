"""ONNX Runtime over an `lm` graph (`contract.LmGraph`), with every buffer bound by address: no copies.

Inputs and outputs live in arrays that are made once; the KV cache is bound as past and present at the same
address, so the graph writes its new rows in place. A view of consecutive slots is an address into the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from kernels.fusion import BEST, LOG_SUM
from kernels.session import element_type, open_graph
from runtime.contract import LmGraph, Operation
from runtime.errors import ModelError
from runtime.kv_cache import CacheLayout, KvCache
from runtime.sampling import Choices
from runtime.scheduler import Batch, Decode, Prefill

Floats = NDArray[np.float32]
SPIN_MICROSECONDS = "20"


def open_session(graph: Path, threads: int) -> onnxruntime.InferenceSession:
    """A CPU session as every model of this server runs it; raises ModelError where the graph cannot be read.

    Threads wait for the next operator awake, but hardly longer than the step from one to the next takes:
    several models and Triton itself share the cores, and a thread that spins for one model takes them from
    all others.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
    try:
        return open_graph(graph, options)
    except Exception as error:  # onnxruntime has a type of its own for each status, with Exception in common
        raise ModelError(f"{graph.name}: ONNX Runtime cannot load it: {error}") from None


@dataclass(slots=True)
class _Binding:
    """What one view of slots is bound to at the moment."""

    io: Any  # onnxruntime.IOBinding
    first_slot: int
    count: int  # slots
    length: int = 0  # tokens of each row
    rows: int = 0  # output rows
    output: str = ""


class LmSession:
    """One loaded graph; `attach` a cache, then `run` batches. Used by one thread only."""

    def __init__(self, graph: Path, threads: int) -> None:
        self._session = open_session(graph, threads)
        inputs = {item.name: item for item in self._session.get_inputs()}
        outputs = {item.name: item for item in self._session.get_outputs()}
        try:
            key = inputs[LmGraph.past_key(0)]
            self._widths = {name: int(outputs[name].shape[1]) for name in (LmGraph.LOGITS, LmGraph.HIDDEN)}
        except KeyError as error:
            raise ModelError(f"{graph.name}: not a graph of kind lm: {error} is missing") from None
        self.layout = CacheLayout(
            num_layers=sum(name.startswith("past_key.") for name in inputs),
            num_heads=int(key.shape[1]),
            head_size=int(key.shape[3]),
            dtype=element_type(key),
        )
        self._tells_best = BEST in outputs
        self._options = onnxruntime.RunOptions()
        # Skips the vocabulary matrix where no row of logits is wanted, as in the first chunks of a prompt.
        self._options.only_execute_path_to_fetches = True
        # onnxruntime's Python looks for this entry at every run, and its absence costs an exception of 60 us.
        self._options.add_run_config_entry("gpu_graph_id", "-1")
        self._bindings: dict[tuple[int, int], _Binding] = {}

    def attach(self, cache: KvCache, prefill_chunk: int) -> None:
        """Make the buffers for runs over `cache`: of `prefill_chunk` tokens, or of one token per slot."""
        self._cache = cache
        tokens = max(prefill_chunk, cache.num_slots)
        self._inputs: dict[str, NDArray[Any]] = {
            LmGraph.INPUT_IDS: np.zeros(tokens, np.int64),
            LmGraph.POSITION_IDS: np.zeros(tokens, np.int64),
            LmGraph.SEQLENS_K: np.zeros(cache.num_slots, np.int32),
            LmGraph.TOTAL_SEQUENCE_LENGTH: np.zeros((), np.int32),
            LmGraph.LOGIT_ROWS: np.zeros(tokens, np.int64),
        }
        # Reserved for the largest run; the operating system hands out only the pages that are written.
        self._outputs = {name: np.empty((tokens, width), np.float32) for name, width in self._widths.items()}
        self._best, self._log_sums = np.empty(tokens, np.int64), np.empty(tokens, np.float32)

    def run(self, batch: Batch) -> Floats:
        """The wanted rows of the batch: logits [rows, vocab], or hidden states [rows, hidden] to embed.

        The answer is a view of a buffer that the next run overwrites.
        """
        if isinstance(batch, Decode):
            return self._run_decode(batch)
        return self._run_prefill(batch)

    def choices(self, rows: int) -> Choices | None:
        """What the graph itself found in the `rows` rows of logits of the last run, where it looks."""
        if not self._tells_best:
            return None
        return Choices(self._best[:rows].tolist(), self._log_sums[:rows].tolist())

    def _run_decode(self, batch: Decode) -> Floats:
        rows, wanted = batch.rows, batch.wanted
        computed = [sequence.computed for sequence in rows]
        count = len(rows)
        self._inputs[LmGraph.INPUT_IDS][:count] = [sequence.tokens[sequence.computed] for sequence in rows]
        self._inputs[LmGraph.POSITION_IDS][:count] = computed
        self._inputs[LmGraph.SEQLENS_K][:count] = computed
        self._inputs[LmGraph.TOTAL_SEQUENCE_LENGTH][()] = max(computed) + 1
        self._inputs[LmGraph.LOGIT_ROWS][: len(wanted)] = wanted
        return self._execute(self._binding(0, count), 1, len(wanted), LmGraph.LOGITS)

    def _run_prefill(self, batch: Prefill) -> Floats:
        sequence, start = batch.sequence, batch.sequence.computed
        stop, wanted = start + batch.count, batch.num_wanted
        self._inputs[LmGraph.INPUT_IDS][: batch.count] = sequence.tokens[start:stop]
        self._inputs[LmGraph.POSITION_IDS][: batch.count] = range(start, stop)
        self._inputs[LmGraph.SEQLENS_K][0] = stop - 1
        self._inputs[LmGraph.TOTAL_SEQUENCE_LENGTH][()] = stop
        self._inputs[LmGraph.LOGIT_ROWS][:wanted] = range(batch.count - wanted, batch.count)
        output = LmGraph.HIDDEN if sequence.operation is Operation.EMBED else LmGraph.LOGITS
        return self._execute(self._binding(sequence.slot, 1), batch.count, wanted, output)

    def _execute(self, binding: _Binding, length: int, rows: int, output: str) -> Floats:
        if (binding.length, binding.rows, binding.output) != (length, rows, output):
            self._bind_run(binding, length, rows, output)
        self._session.run_with_iobinding(binding.io, self._options)
        return self._outputs[output][:rows]

    def _binding(self, first_slot: int, count: int) -> _Binding:
        """The binding of `count` slots from `first_slot` on; their cache is bound once and for all."""
        found = self._bindings.get((first_slot, count))
        if found is None:
            found = self._bindings[first_slot, count] = _Binding(
                self._session.io_binding(), first_slot, count
            )
            for past, _, view in self._cache_views(found):
                _bind(found.io.bind_input, past, view, view.shape)
            _bind(found.io.bind_input, LmGraph.SEQLENS_K, self._inputs[LmGraph.SEQLENS_K], (count,))
            total = self._inputs[LmGraph.TOTAL_SEQUENCE_LENGTH]
            _bind(found.io.bind_input, LmGraph.TOTAL_SEQUENCE_LENGTH, total, ())
        return found

    def _bind_run(self, binding: _Binding, length: int, rows: int, output: str) -> None:
        """Bind what differs from run to run; without a wanted row only the cache is an output."""
        bind_input, bind_output = binding.io.bind_input, binding.io.bind_output
        for name in (LmGraph.INPUT_IDS, LmGraph.POSITION_IDS):
            _bind(bind_input, name, self._inputs[name], (binding.count, length))
        _bind(bind_input, LmGraph.LOGIT_ROWS, self._inputs[LmGraph.LOGIT_ROWS], (rows,))
        if binding.output != output or 0 in (binding.rows, rows):
            binding.io.clear_binding_outputs()
            for _, present, view in self._cache_views(binding):
                _bind(bind_output, present, view, view.shape)
        if rows:
            _bind(bind_output, output, self._outputs[output], (rows, self._widths[output]))
        if rows and output == LmGraph.LOGITS and self._tells_best:
            _bind(bind_output, BEST, self._best, (rows,))
            _bind(bind_output, LOG_SUM, self._log_sums, (rows,))
        binding.length, binding.rows, binding.output = length, rows, output

    def _cache_views(self, binding: _Binding) -> Iterator[tuple[str, str, NDArray[Any]]]:
        """(past, present, the part of the buffer that is both) for the keys and values of each layer."""
        slots = slice(binding.first_slot, binding.first_slot + binding.count)
        for layer in range(self.layout.num_layers):
            keys, values = self._cache.buffers[2 * layer : 2 * layer + 2, slots]
            yield LmGraph.past_key(layer), LmGraph.present_key(layer), keys
            yield LmGraph.past_value(layer), LmGraph.present_value(layer), values


def _bind(bind: Callable[..., None], name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    """Bind the beginning of `array`, as many values as `shape` holds."""
    bind(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)
