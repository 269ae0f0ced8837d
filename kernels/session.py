"""Opening a graph on the CPU, with our operators where they can be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from kernels.fusion import fuse, take_row_tokens
from kernels.library import LIBRARY, has_block_linear, missing, takes_row_tokens
from kernels.padding import pad_products
from kernels.pages import give_back

CPU = "CPUExecutionProvider"
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"  # an entry of SessionOptions
# On x86-64 without VNNI, ONNX Runtime multiplies eight-bit numbers in pairs whose sums saturate at 16 bits.
# With this it does not; on other processors the entry changes nothing.
_EXACT_PRODUCTS = "session.x64quantprecision"

_ELEMENTS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


def open_graph(graph: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session over `graph` on the CPU; raises what ONNX Runtime raises.

    If patterns of an eight-bit graph were replaced, its cache is uint8, with four bytes more for each head:
    read type and shape from the session.
    """
    fused = None if missing() else _changed(graph, _fuse_and_pad)
    if fused is None:
        return open_plain(graph, options)
    if takes_row_tokens():
        take_row_tokens(fused)
    options.register_custom_ops_library(str(LIBRARY))
    session = _open_changed(fused, graph, options)
    give_back({graph.parent / ExternalDataInfo(weight).location for weight in _stored_apart(fused)})
    return session


def open_plain(graph: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session in ONNX Runtime's own operators, on any CPU.

    Products of eight-bit numbers are exact, and no answer depends on what else is in the batch.
    """
    options.add_session_config_entry(_EXACT_PRODUCTS, "1")
    padded = _changed(graph, pad_products)
    if padded is None:
        return onnxruntime.InferenceSession(str(graph), options, providers=[CPU])
    return _open_changed(padded, graph, options)


def element_type(value: onnxruntime.NodeArg) -> np.dtype[Any]:
    """Of an input or output of a session, floats or bytes."""
    return np.dtype(_ELEMENTS[value.type])


def _fuse_and_pad(model: onnx.ModelProto) -> bool:
    """Products that are not replaced run in ONNX Runtime's own operators."""
    if not fuse(model, four_bits=has_block_linear()):
        return False
    pad_products(model)
    return True


def _changed(graph: Path, change: Callable[[onnx.ModelProto], bool]) -> onnx.ModelProto | None:
    """The graph with `change` made to it; None if there was nothing to change."""
    try:
        model = onnx.load(graph, load_external_data=False)
    except Exception:  # not a model: opening the session reports it
        return None
    return model if change(model) else None


def _open_changed(
    model: onnx.ModelProto, graph: Path, options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    """A session over the changed `graph`; the weights stay in the file beside it."""
    options.add_session_config_entry(_EXACT_PRODUCTS, "1")
    options.add_session_config_entry(WEIGHTS_FOLDER, str(graph.parent))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])


def _stored_apart(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    return filter(uses_external_data, model.graph.initializer)
