"""Activations of the fp32 graph on calibration texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from export.checkpoint.config import Head, ModelConfig
from export.session import Floats, open_session
from runtime.contract import HeadGraph, LmGraph, Variant


class ActivationReader:
    """An fp32 graph whose tensors inside can be read."""

    def __init__(self, session: onnxruntime.InferenceSession, config: ModelConfig) -> None:
        self._session = session
        self._config = config
        self.names = {output.name for output in session.get_outputs()}

    def runs(self, names: list[str], rows: Iterable[list[int]]) -> Iterator[dict[str, Floats]]:
        """The tensors `names`, `[tokens, channels]` each, for every row of token ids."""
        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = True  # without the logits
        is_lm = self._config.head is Head.LM
        for row in rows:
            inputs = _language_inputs(row, self._config) if is_lm else _head_inputs(row)
            yield dict(zip(names, self._session.run(names, inputs, options), strict=True))


@contextmanager
def open_activations(graph: Path, names: Iterable[str], config: ModelConfig) -> Iterator[ActivationReader]:
    """Open the fp32 `graph` so that the tensors `names` can be read; those that it lacks are left out."""
    model = onnx.load(graph, load_external_data=False)
    made = {name for node in model.graph.node for name in node.output}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name in made
    )
    # In the folder of the graph, whose weights it may refer to.
    watched = graph.with_name("watched.onnx")
    watched.write_bytes(model.SerializeToString())
    del model
    try:
        yield ActivationReader(open_session(watched, Variant.FP32), config)
    finally:
        watched.unlink()


def _head_inputs(row: list[int]) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    return {
        HeadGraph.INPUT_IDS: np.array([row], np.int64),
        HeadGraph.LENGTHS: np.array([len(row)], np.int64),
    }


def _language_inputs(
    row: list[int], config: ModelConfig
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    length = len(row)
    inputs: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        LmGraph.INPUT_IDS: np.array([row], np.int64),
        LmGraph.POSITION_IDS: np.arange(length, dtype=np.int64)[None],
        LmGraph.SEQLENS_K: np.array([length - 1], np.int32),
        LmGraph.TOTAL_SEQUENCE_LENGTH: np.array(length, np.int32),
        LmGraph.LOGIT_ROWS: np.arange(length, dtype=np.int64),
    }
    for layer, heads in enumerate(config.layer_heads):
        cache = np.zeros((1, heads, length, config.architecture.head_size), np.float32)
        inputs |= {LmGraph.past_key(layer): cache, LmGraph.past_value(layer): cache}
    return inputs
