"""Running a written graph while exporting: the inputs and outputs of the engine, without its scheduling."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from runtime.contract import Architecture, HeadGraph, LmGraph

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def open_session(graph: Path) -> onnxruntime.InferenceSession:
    """A CPU session whose threads sleep when they have nothing to do, as exports run beside servers."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(4, len(os.sched_getaffinity(0)))
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


class LanguageSession:
    """An `lm` graph over a cache of `rows` rows; as many of them as there are prompts advance together."""

    def __init__(self, graph: Path, architecture: Architecture, rows: int, context: int) -> None:
        self._session = open_session(graph)
        self._row = (architecture.num_heads, context, architecture.head_size)
        self._cache = {}
        for layer in range(architecture.num_layers):
            for past, present in (
                (LmGraph.past_key(layer), LmGraph.present_key(layer)),
                (LmGraph.past_value(layer), LmGraph.present_value(layer)),
            ):
                buffer = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((rows, *self._row), np.float32))
                self._cache[past, present] = buffer

    def prefill(self, prompts: Sequence[Sequence[int]], *, every_row: bool = False) -> Floats:
        """Start the rows over; logits `[rows, vocab]` of the last tokens, or of every token, row by row."""
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
        """Append one token to each row, `lengths` tokens long until now; logits `[rows, vocab]`."""
        return self._run(tokens[:, None], lengths[:, None], lengths + 1, np.arange(len(tokens)))

    def _run(self, ids: Integers, positions: Integers, lengths: Integers, wanted: Integers) -> Floats:
        binding = self._session.io_binding()
        binding.bind_cpu_input(LmGraph.INPUT_IDS, np.ascontiguousarray(ids, np.int64))
        binding.bind_cpu_input(LmGraph.POSITION_IDS, np.ascontiguousarray(positions, np.int64))
        binding.bind_cpu_input(LmGraph.SEQLENS_K, (lengths - 1).astype(np.int32))
        binding.bind_cpu_input(LmGraph.TOTAL_SEQUENCE_LENGTH, np.array(lengths.max(), np.int32))
        binding.bind_cpu_input(LmGraph.LOGIT_ROWS, wanted.astype(np.int64))
        binding.bind_output(LmGraph.LOGITS)
        shape = [len(ids), *self._row]
        for (past, present), buffer in self._cache.items():
            pointer = buffer.data_ptr()
            binding.bind_input(past, "cpu", 0, np.float32, shape, pointer)
            binding.bind_output(present, "cpu", 0, np.float32, shape, pointer)
        self._session.run_with_iobinding(binding)
        logits: Floats = binding.get_outputs()[0].numpy()
        return logits


class HeadSession:
    """A `classifier` or `nlu` graph."""

    def __init__(self, graph: Path) -> None:
        self._session = open_session(graph)
        self._has_slots = any(output.name == HeadGraph.SLOT_LOGITS for output in self._session.get_outputs())

    def run(self, texts: Sequence[Sequence[int]]) -> tuple[Floats, Floats | None]:
        """Logits `[texts, labels]`, and `[texts, longest, slot_labels]` where the model tags slots."""
        lengths = np.array([len(text) for text in texts], np.int64)
        ids = np.zeros((len(texts), lengths.max()), np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
        names = [HeadGraph.LOGITS, HeadGraph.SLOT_LOGITS] if self._has_slots else [HeadGraph.LOGITS]
        outputs = self._session.run(names, {HeadGraph.INPUT_IDS: ids, HeadGraph.LENGTHS: lengths})
        return outputs[0], outputs[1] if self._has_slots else None
