"""ONNX Runtime over an `lm` graph (`contract.LmGraph`), with every buffer bound by address: no copies.

Inputs and outputs are arrays that are allocated once. The KV cache is bound as past and present at the same
address, so that the graph writes its new rows in place. A view of consecutive slots is an address in the
cache.

On a GPU, cache, inputs and logits are in its memory, and steps are CUDA graphs (runtime/cuda). A row of
logits comes to the host only for a sequence that needs what the graphs cannot choose by: the end of a prompt,
penalties, top-p, alternatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import DTypeLike, NDArray

from kernels.fusion import ARGMAX, LOG_SUM, ROW_TOKENS
from kernels.library import LevelError, level
from kernels.processors import usable_cores
from kernels.session import element_type, open_graph
from runtime.config import MOST_THREADS
from runtime.contract import ENGINE_FILE, LmGraph
from runtime.cuda.accelerator import Accelerator, AcceleratorError
from runtime.cuda.captured import DrawRuns, ModelRuns, run_options
from runtime.cuda.decode_graphs import DecodeGraphs
from runtime.cuda.memory import DeviceArrays, DeviceKvMemory, DeviceLogits
from runtime.cuda.plan_session import PlanSession
from runtime.cuda.prompt_graphs import PromptGraphs
from runtime.cuda.sampling import DRAW_INPUTS, draw_graph
from runtime.errors import ModelError, RequestFault
from runtime.kv_cache import CacheLayout, KvCache, MakeMemory
from runtime.memory import HostArrays, HostKvMemory
from runtime.sampling import Choices, Sampled, sample_batch
from runtime.scheduler import Batch, Decode, Prefill

Floats = NDArray[np.float32]
SPIN_MICROSECONDS = "20"


def open_session(
    graph: Path, threads: int, accelerator: Accelerator | None = None, logits: str = ""
) -> onnxruntime.InferenceSession:
    """A session as every model of this server runs it; raises ModelError if the graph cannot be read.

    `logits` names the output from which an accelerator chooses tokens, if any. Threads spin for the next
    operator, but only about as long as the step between two operators takes: several models and Triton itself
    share the cores, and a thread that spins for one model takes them from all others. In a container with
    fewer processors there are fewer than `threads`; 0: as many as `EngineSettings` says.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(threads or MOST_THREADS, usable_cores())
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
    try:
        if accelerator is not None:
            return accelerator.open_graph(graph, options, logits)
        return open_graph(graph, options)
    except LevelError as error:
        raise ModelError(str(error)) from None
    except AcceleratorError as error:
        raise ModelError(f"{ENGINE_FILE}: device: cuda (LMAAS_DEVICE), but {error}") from None
    except Exception as error:  # onnxruntime has a type for each status, and only Exception is their base
        raise ModelError(f"{graph.name}: ONNX Runtime cannot load it: {error}") from None


@dataclass(slots=True)
class _Binding:
    """What one view of slots is bound to now."""

    io: Any  # onnxruntime.IOBinding
    first_slot: int
    count: int  # slots
    packed: bool = False  # `length` tokens in all, of rows with different numbers of them
    length: int = 0  # tokens of each row
    rows: int = 0  # output rows
    output: str = ""


class LmSession:
    """One loaded graph; `attach` a cache, then `run` batches. Used by one thread only."""

    def __init__(
        self,
        graph: Path,
        threads: int,
        accelerator: Accelerator | None = None,
        plan: PlanSession | None = None,
    ) -> None:
        """A `plan` of the graph computes instead of ONNX Runtime, on the accelerator's stream."""
        self._session = plan or open_session(graph, threads, accelerator, LmGraph.LOGITS)
        self._accelerator = accelerator
        # What computes: a level of our operators, ONNX Runtime's own, or TensorRT.
        self.kernels = plan.version if plan else f"onnxruntime {onnxruntime.__version__}"
        inputs = {item.name: item for item in self._session.get_inputs()}
        outputs = {item.name: item for item in self._session.get_outputs()}
        layers = sum(name.startswith("past_key.") for name in inputs)
        try:
            keys = [inputs[LmGraph.past_key(layer)] for layer in range(max(1, layers))]
            self._widths = {name: int(outputs[name].shape[1]) for name in (LmGraph.LOGITS, LmGraph.HIDDEN)}
        except KeyError as error:
            raise ModelError(f"{graph.name}: not a graph of kind lm: {error} is missing") from None
        self.layout = CacheLayout(
            layer_heads=tuple(int(key.shape[1]) for key in keys),
            head_size=int(keys[0].shape[3]),
            dtype=element_type(keys[0]),
        )
        self._finds_argmax = ARGMAX in outputs
        if self.is_fused and (used := level()):
            self.kernels = used
        self.packs = ROW_TOKENS in inputs
        self._options = run_options(-1)
        self._bindings: dict[tuple[int, int, bool], _Binding] = {}
        self._decode_graphs: DecodeGraphs | None = None
        self._prompt_graphs: PromptGraphs | None = None

    @property
    def on_host(self) -> bool:
        """Whether steps use the CPUs, which the answers need on their way, too."""
        return self._accelerator is None

    @property
    def is_fused(self) -> bool:
        """Whether our operators compute the logits."""
        return self._finds_argmax and self.on_host

    @property
    def make_memory(self) -> MakeMemory:
        """Allocates the memory of the cache that `attach` takes."""
        if self._accelerator is None:
            return HostKvMemory
        return partial(DeviceKvMemory, stream=self._accelerator.stream)

    def attach(self, cache: KvCache, prefill_chunk: int) -> None:
        """Allocate the buffers for runs over `cache`, of `prefill_chunk` tokens and one of each slot."""
        self._cache = cache
        tokens = prefill_chunk + cache.num_slots
        inputs: dict[str, tuple[int, DTypeLike]] = {
            LmGraph.INPUT_IDS: (tokens, np.int64),
            LmGraph.POSITION_IDS: (tokens, np.int64),
            LmGraph.SEQLENS_K: (cache.num_slots, np.int32),
            LmGraph.LOGIT_ROWS: (tokens, np.int64),
            ROW_TOKENS: (cache.num_slots, np.int32),
        }
        self._total = np.zeros((), np.int32)  # total_sequence_length; every provider reads it on the host
        # Reserved for the largest run; the operating system hands out only the pages that are written.
        self._outputs = {name: np.empty((tokens, width), np.float32) for name, width in self._widths.items()}
        self._argmax, self._log_sums = np.empty(tokens, np.int64), np.empty(tokens, np.float32)
        if self._accelerator is None:
            self._inputs = HostArrays(inputs)
            return
        self._attach_device(inputs, prefill_chunk, self._accelerator)

    def _attach_device(
        self, inputs: dict[str, tuple[int, DTypeLike]], prefill_chunk: int, accelerator: Accelerator
    ) -> None:
        slots, vocab, stream = self._cache.num_slots, self._widths[LmGraph.LOGITS], accelerator.stream
        inputs = inputs | {name: (slots, dtype) for name, dtype in DRAW_INPUTS.items()}
        self._inputs = arrays = DeviceArrays(inputs, stream)
        logits = DeviceLogits(slots, vocab, stream)
        runs = ModelRuns(self._session, stream, arrays, logits, self._bind_cache)
        options = onnxruntime.SessionOptions()
        draw = accelerator.open(draw_graph(vocab).SerializeToString(), options, capture=True)
        self._decode_graphs = DecodeGraphs(runs, DrawRuns(draw, runs), self._cache)
        self._prompt_graphs = PromptGraphs(runs, self._cache, prefill_chunk)

    def capture(self) -> None:
        """Record the CUDA graphs, in the thread that will run them, before there is a request."""
        if self._decode_graphs is not None and self._prompt_graphs is not None:
            self._decode_graphs.capture()
            self._prompt_graphs.capture()

    def decode(self, batch: Decode) -> list[Sampled | RequestFault]:
        """The next token of each wanted row, or the fault of its request instead."""
        samplers = [sequence.sampler for sequence in batch.sequences if sequence.sampler is not None]
        if self._decode_graphs is not None:
            return self._decode_graphs.run(batch, samplers)
        rows = self.run(batch)
        return sample_batch(samplers, rows, self.choices(len(rows)))

    def run(self, batch: Batch) -> Floats:
        """The wanted rows of the batch: logits [rows, vocab], or hidden states [rows, hidden] to embed.

        The result is a view of a buffer that the next run overwrites.
        """
        if isinstance(batch, Decode):
            return self._run_decode(batch)
        if self._prompt_graphs is not None and self._prompt_graphs.fits(batch):
            rows, self._argmax[0], self._log_sums[0] = self._prompt_graphs.run(batch)
            return rows
        return self._run_prefill(batch)

    def choices(self, rows: int) -> Choices | None:
        """What the graph found in the `rows` rows of logits of the last run; None if it does not look."""
        if not self._finds_argmax:
            return None
        return Choices(self._argmax[:rows].tolist(), self._log_sums[:rows].tolist())

    def _run_decode(self, batch: Decode) -> Floats:
        arrays, rows, wanted = self._inputs.arrays, batch.rows, batch.wanted
        computed = [sequence.computed for sequence in rows]
        count = len(rows)
        arrays[LmGraph.INPUT_IDS][:count] = [sequence.tokens[sequence.computed] for sequence in rows]
        arrays[LmGraph.POSITION_IDS][:count] = computed
        arrays[LmGraph.SEQLENS_K][:count] = computed
        self._total[()] = max(computed) + 1
        arrays[LmGraph.LOGIT_ROWS][: len(wanted)] = wanted
        return self._execute(self._binding(0, count), 1, len(wanted), LmGraph.LOGITS)

    def _run_prefill(self, batch: Prefill) -> Floats:
        if self.packs:
            return self._run_packed(batch)
        (chunk,) = batch.chunks
        arrays, sequence, start = self._inputs.arrays, chunk.sequence, chunk.sequence.computed
        stop, wanted = start + chunk.count, chunk.num_wanted
        arrays[LmGraph.INPUT_IDS][: chunk.count] = sequence.tokens[start:stop]
        arrays[LmGraph.POSITION_IDS][: chunk.count] = range(start, stop)
        arrays[LmGraph.SEQLENS_K][0] = stop - 1
        self._total[()] = stop
        arrays[LmGraph.LOGIT_ROWS][:wanted] = range(chunk.count - wanted, chunk.count)
        binding = self._binding(sequence.slot, 1)
        return self._execute(binding, chunk.count, wanted, LmGraph.HIDDEN if batch.embeds else LmGraph.LOGITS)

    def _run_packed(self, batch: Prefill) -> Floats:
        """All slots are rows of the run, most of them without tokens; tokens are in the order of slots."""
        arrays, slots = self._inputs.arrays, self._cache.num_slots
        counts, lengths = arrays[ROW_TOKENS], arrays[LmGraph.SEQLENS_K]
        counts[:], lengths[:] = 0, 0
        for chunk in batch.chunks:
            counts[chunk.sequence.slot] = chunk.count
            lengths[chunk.sequence.slot] = chunk.sequence.computed + chunk.count - 1
        starts = np.cumsum(counts) - counts
        wanted = 0
        for chunk in batch.chunks:
            first, at, rows = chunk.sequence.computed, int(starts[chunk.sequence.slot]), chunk.num_wanted
            end = at + chunk.count
            arrays[LmGraph.INPUT_IDS][at:end] = chunk.sequence.tokens[first : first + chunk.count]
            arrays[LmGraph.POSITION_IDS][at:end] = range(first, first + chunk.count)
            arrays[LmGraph.LOGIT_ROWS][wanted : wanted + rows] = range(end - rows, end)
            wanted += rows
        self._total[()] = int(lengths.max()) + 1
        output = LmGraph.HIDDEN if batch.embeds else LmGraph.LOGITS
        return self._execute(self._binding(0, slots, packed=True), batch.num_tokens, wanted, output)

    def _execute(self, binding: _Binding, length: int, rows: int, output: str) -> Floats:
        if (binding.length, binding.rows, binding.output) != (length, rows, output):
            self._bind_run(binding, length, rows, output)
        self._inputs.push()
        self._session.run_with_iobinding(binding.io, self._options)
        return self._outputs[output][:rows]

    def _binding(self, first_slot: int, count: int, *, packed: bool = False) -> _Binding:
        """The binding of `count` slots from `first_slot` on; their cache is bound once."""
        found = self._bindings.get((first_slot, count, packed))
        if found is None:
            io = self._session.io_binding()
            found = self._bindings[first_slot, count, packed] = _Binding(io, first_slot, count, packed)
            self._bind_cache(io, first_slot, count)
            self._bind_input(io, LmGraph.SEQLENS_K, (count,))
            if self.packs:
                self._bind_input(io, ROW_TOKENS, (count if packed else 0,))
            _bind(io.bind_input, LmGraph.TOTAL_SEQUENCE_LENGTH, self._total, ())
        return found

    def _bind_run(self, binding: _Binding, length: int, rows: int, output: str) -> None:
        """Bind what differs between runs; without a wanted row only the cache is an output."""
        io, bind_output = binding.io, binding.io.bind_output
        for name in (LmGraph.INPUT_IDS, LmGraph.POSITION_IDS):
            self._bind_input(io, name, (1 if binding.packed else binding.count, length))
        self._bind_input(io, LmGraph.LOGIT_ROWS, (rows,))
        if binding.output != output or 0 in (binding.rows, rows):
            io.clear_binding_outputs()
            self._bind_cache(io, binding.first_slot, binding.count, only_outputs=True)
        if rows:
            _bind(bind_output, output, self._outputs[output], (rows, self._widths[output]))
        if rows and output == LmGraph.LOGITS and self._finds_argmax:
            _bind(bind_output, ARGMAX, self._argmax, (rows,))
            _bind(bind_output, LOG_SUM, self._log_sums, (rows,))
        binding.length, binding.rows, binding.output = length, rows, output

    def _bind_input(self, io: Any, name: str, shape: tuple[int, ...]) -> None:
        """Bind the first values of an input, as many as `shape` holds."""
        inputs = self._inputs
        io.bind_input(name, inputs.device, 0, inputs.arrays[name].dtype.type, shape, inputs.address(name))

    def _bind_cache(self, io: Any, first_slot: int, count: int, *, only_outputs: bool = False) -> None:
        """Past and present of each layer's keys and values are at the same address in the cache."""
        memory, layout = self._cache.memory, self.layout
        for layer, heads in enumerate(layout.layer_heads):
            shape = (count, heads, self._cache.context_length, layout.head_size)
            for half, past, present in (
                (2 * layer, LmGraph.past_key(layer), LmGraph.present_key(layer)),
                (2 * layer + 1, LmGraph.past_value(layer), LmGraph.present_value(layer)),
            ):
                buffer = (memory.device, 0, layout.dtype.type, shape, memory.address(half, first_slot))
                if not only_outputs:
                    io.bind_input(past, *buffer)
                io.bind_output(present, *buffer)


def _bind(bind: Callable[..., None], name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    """Bind the first values of an array of the host, as many as `shape` holds."""
    bind(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)
