"""Running a graph during an export: the inputs and outputs of the engine, without its scheduling.

A model may be as large as the memory: weights stay in their mapped file, are not rearranged, and no memory is
kept between runs. That costs some speed and changes no result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from kernels.fusion import ROW_TOKENS
from kernels.processors import usable_cores
from kernels.session import element_type, open_graph
from runtime.contract import HeadGraph, LmGraph, Variant
from runtime.manifest import Architecture

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
HEAD_BATCH = 8  # texts that run at once


def open_session(graph: Path, variant: Variant, *, lean: bool = True) -> onnxruntime.InferenceSession:
    """A CPU session whose threads sleep when idle, because exports run beside servers.

    Without `lean` it is opened as a server does it: weights are copied into the order that is read fastest.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(4, usable_cores())
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = not lean
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_prepacking", "1" if lean else "0")
    if variant is Variant.FP16:
        # CPUs have no float16 products: onnxruntime casts the weights to float32 before each product. An
        # optimizer would keep all casts as constants; in this order each is made before its use, then freed.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    return open_graph(graph, options)


class LanguageSession:
    """An `lm` graph with a cache of `rows` rows; one row for each prompt, and all rows advance together."""

    def __init__(
        self,
        graph: Path,
        variant: Variant,
        architecture: Architecture,
        rows: int,
        context: int,
        *,
        lean: bool = True,
    ) -> None:
        self._session = open_session(graph, variant, lean=lean)
        key = next(value for value in self._session.get_inputs() if value.name == LmGraph.past_key(0))
        self._takes_row_tokens = any(value.name == ROW_TOKENS for value in self._session.get_inputs())
        self._vocab_size = architecture.vocab_size
        self._element = element_type(key)
        self._cache = {}
        for layer, heads in enumerate(architecture.heads):
            for past, present in (
                (LmGraph.past_key(layer), LmGraph.present_key(layer)),
                (LmGraph.past_value(layer), LmGraph.present_value(layer)),
            ):
                empty = np.zeros((rows, heads, context, int(key.shape[3])), self._element)
                self._cache[past, present] = onnxruntime.OrtValue.ortvalue_from_numpy(empty)

    def prefill(self, prompts: Sequence[Sequence[int]], *, every_row: bool = False) -> Floats:
        """Start all rows again; logits `[rows, vocab]` of the last tokens, or of every token, row by row."""
        longest = max(map(len, prompts))
        ids = np.zeros((len(prompts), longest), np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        lengths = np.array([len(prompt) for prompt in prompts])
        starts = np.arange(len(prompts)) * longest
        wanted = starts + lengths - 1
        if every_row:
            wanted = np.concatenate(
                [start + np.arange(length) for start, length in zip(starts, lengths, strict=True)]
            )
        positions = np.broadcast_to(np.arange(longest), ids.shape)
        return self._run(ids, positions, lengths, wanted)

    def decode(self, tokens: Integers, lengths: Integers) -> Floats:
        """Append one token to each row, which has `lengths` tokens so far; logits `[rows, vocab]`."""
        return self._run(tokens[:, None], lengths[:, None], lengths + 1, np.arange(len(tokens)))

    def generate(
        self, prompts: Sequence[Sequence[int]], count: int, random: np.random.Generator | None = None
    ) -> tuple[Integers, Floats]:
        """Continue each prompt by `count` tokens: greedily, or sampled at temperature 1 with `random`.

        Tokens and their log-probabilities, `[rows, count]` each.
        """
        lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        tokens = np.zeros((len(prompts), count), np.int64)
        logprobs = np.zeros((len(prompts), count), np.float32)
        logits = self.prefill(prompts)
        for step in range(count):
            if step:
                logits = self.decode(tokens[:, step - 1], lengths)
                lengths = lengths + 1
            if random is None:
                chosen = logits.argmax(axis=1)
            else:
                # Adding Gumbel noise and taking the maximum samples from the softmax.
                noise = random.standard_exponential(logits.shape)
                np.subtract(logits, np.log(noise, out=noise), out=noise)
                chosen = noise.argmax(axis=1)
            tokens[:, step] = chosen
            logprobs[:, step] = logits[np.arange(len(chosen)), chosen] - _log_sum(logits)
        return tokens, logprobs

    def _run(self, ids: Integers, positions: Integers, lengths: Integers, wanted: Integers) -> Floats:
        binding = self._session.io_binding()
        binding.bind_cpu_input(LmGraph.INPUT_IDS, np.ascontiguousarray(ids, np.int64))
        binding.bind_cpu_input(LmGraph.POSITION_IDS, np.ascontiguousarray(positions, np.int64))
        binding.bind_cpu_input(LmGraph.SEQLENS_K, (lengths - 1).astype(np.int32))
        binding.bind_cpu_input(LmGraph.TOTAL_SEQUENCE_LENGTH, np.array(lengths.max(), np.int32))
        binding.bind_cpu_input(LmGraph.LOGIT_ROWS, wanted.astype(np.int64))
        if self._takes_row_tokens:
            binding.bind_cpu_input(ROW_TOKENS, np.empty(0, np.int32))
        logits = np.empty((len(wanted), self._vocab_size), np.float32)
        binding.bind_output(LmGraph.LOGITS, "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        for (past, present), buffer in self._cache.items():
            shape, pointer = [len(ids), *buffer.shape()[1:]], buffer.data_ptr()
            binding.bind_input(past, "cpu", 0, self._element.type, shape, pointer)
            binding.bind_output(present, "cpu", 0, self._element.type, shape, pointer)
        self._session.run_with_iobinding(binding)
        return logits


class HeadSession:
    """A `classifier` or `nlu` graph."""

    def __init__(self, graph: Path, variant: Variant) -> None:
        self._session = open_session(graph, variant)
        self._has_slots = any(output.name == HeadGraph.SLOT_LOGITS for output in self._session.get_outputs())

    def run(self, texts: Sequence[Sequence[int]]) -> Iterator[tuple[Floats, Floats | None]]:
        """For each text: logits `[labels]`, and `[tokens, slot_labels]` where the model tags slots."""
        names = [HeadGraph.LOGITS, HeadGraph.SLOT_LOGITS] if self._has_slots else [HeadGraph.LOGITS]
        for start in range(0, len(texts), HEAD_BATCH):
            batch = texts[start : start + HEAD_BATCH]
            lengths = np.array([len(text) for text in batch], np.int64)
            ids = np.zeros((len(batch), lengths.max()), np.int64)
            for row, text in enumerate(batch):
                ids[row, : len(text)] = text
            outputs = self._session.run(names, {HeadGraph.INPUT_IDS: ids, HeadGraph.LENGTHS: lengths})
            for row, text in enumerate(batch):
                yield outputs[0][row], outputs[1][row, : len(text)] if self._has_slots else None

    def slot_transitions(self) -> Floats:
        """`[slot_labels + 1, slot_labels]`, the same for every text; only of a graph that has this output."""
        one_token = {
            HeadGraph.INPUT_IDS: np.zeros((1, 1), np.int64),
            HeadGraph.LENGTHS: np.ones(1, np.int64),
        }
        found: list[Floats] = self._session.run([HeadGraph.SLOT_TRANSITIONS], one_token)
        return found[0]


def log_softmax(logits: Floats) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _log_sum(logits: Floats) -> Floats:
    """log(sum(exp(logits))) of each row."""
    largest = logits.max(axis=1)
    return np.asarray(largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1)))
