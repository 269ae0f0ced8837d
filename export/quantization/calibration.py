"""Measure the activations of the fp32 graph while it reads the calibration texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from export.checkpoint.config import Head, ModelConfig
from export.quantization.smoothing import Range, find_ranges, watched_tensors
from export.session import Floats, open_session
from runtime.contract import HeadGraph, LmGraph, Variant


def measure_ranges(graph: Path, rows: list[list[int]], config: ModelConfig) -> dict[str, Range]:
    """Ranges of the activations that can be smoothed, over `rows` of token ids."""
    names = watched_tensors(config)
    model = onnx.load(graph, load_external_data=False)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    # In the folder of the graph, whose weights it may refer to.
    watched = graph.with_name("watched.onnx")
    watched.write_bytes(model.SerializeToString())
    del model
    try:
        return find_ranges(_runs(open_session(watched, Variant.FP32), names, rows, config), config)
    finally:
        watched.unlink()


def _runs(
    session: onnxruntime.InferenceSession, names: list[str], rows: list[list[int]], config: ModelConfig
) -> Iterator[dict[str, Floats]]:
    options = onnxruntime.RunOptions()
    options.only_execute_path_to_fetches = True  # without the logits
    for row in rows:
        inputs = _language_inputs(row, config) if config.head is Head.LM else _head_inputs(row)
        yield dict(zip(names, session.run(names, inputs, options), strict=True))


def _head_inputs(row: list[int]) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    return {
        HeadGraph.INPUT_IDS: np.array([row], np.int64),
        HeadGraph.LENGTHS: np.array([len(row)], np.int64),
    }


def _language_inputs(
    row: list[int], config: ModelConfig
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    length = len(row)
    cache = np.zeros((1, config.num_heads, length, config.architecture.head_size), np.float32)
    inputs: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        LmGraph.INPUT_IDS: np.array([row], np.int64),
        LmGraph.POSITION_IDS: np.arange(length, dtype=np.int64)[None],
        LmGraph.SEQLENS_K: np.array([length - 1], np.int32),
        LmGraph.TOTAL_SEQUENCE_LENGTH: np.array(length, np.int32),
        LmGraph.LOGIT_ROWS: np.arange(length, dtype=np.int64),
    }
    for layer in range(config.num_layers):
        inputs |= {LmGraph.past_key(layer): cache, LmGraph.past_value(layer): cache}
    return inputs
