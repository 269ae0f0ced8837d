"""Opening a graph: on the CPU with our operators where they can be used, or on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from kernels.accelerator import CPU, Accelerator
from kernels.choosing import append_choice
from kernels.fusion import fuse
from kernels.library import LIBRARY, missing
from kernels.pages import give_back

_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"

_ELEMENTS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


def open_graph(graph: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session over `graph` on the CPU; what is raised is ONNX Runtime's.

    Where patterns of an eight-bit graph were replaced, its cache is of uint8, with four bytes more to a head:
    read type and shape from the session.
    """
    fused = None if missing() else _fused(graph)
    if fused is None:
        return onnxruntime.InferenceSession(str(graph), options, providers=[CPU])
    options.register_custom_ops_library(str(LIBRARY))
    options.add_session_config_entry(_WEIGHTS_FOLDER, str(graph.parent))
    session = onnxruntime.InferenceSession(fused.SerializeToString(), options, providers=[CPU])
    give_back({graph.parent / ExternalDataInfo(weight).location for weight in _stored_apart(fused)})
    return session


def open_accelerated(
    graph: Path, options: onnxruntime.SessionOptions, accelerator: Accelerator, logits: str = ""
) -> onnxruntime.InferenceSession:
    """A session over `graph` on a GPU; raises AcceleratorError and what ONNX Runtime raises.

    Over the output `logits`, where it is named, tokens are chosen in the graph (`kernels.choosing`), and runs
    can be captured.
    """
    model = onnx.load(graph, load_external_data=False)
    if logits:
        append_choice(model, logits)
    options.add_session_config_entry(_WEIGHTS_FOLDER, str(graph.parent))
    return accelerator.open(model.SerializeToString(), options, capture=bool(logits))


def element_type(value: onnxruntime.NodeArg) -> np.dtype[Any]:
    """Of an input or output of a session, floats or bytes."""
    return np.dtype(_ELEMENTS[value.type])


def _fused(graph: Path) -> onnx.ModelProto | None:
    try:
        model = onnx.load(graph, load_external_data=False)
    except Exception:  # not a model: the session will say so in its own words
        return None
    return model if fuse(model) else None


def _stored_apart(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    return filter(uses_external_data, model.graph.initializer)
