"""Graphs of one of our operators, run by ONNX Runtime with the library."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kernels.library import LIBRARY
from kernels.products import DOMAIN

Array = NDArray[Any]
_ELEMENTS = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.uint8): TensorProto.UINT8,
}


def run(
    operator: str,
    inputs: list[Array | None],
    constants: dict[int, Array],
    outputs: list[type],
    **attributes: Any,
) -> list[Array]:
    """`operator` over `inputs` (None: left out) and weights by place; one output of each type."""
    given = {f"input{place}": array for place, array in enumerate(inputs) if array is not None}
    weights = {f"input{place}": array for place, array in constants.items()}
    names = [
        f"input{place}" if f"input{place}" in given or place in constants else ""
        for place in range(len(inputs))
    ]
    found = [f"output{place}" for place in range(len(outputs))]
    node = helper.make_node(operator, names, found, domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, _ELEMENTS[array.dtype], array.shape)
            for name, array in given.items()
        ],
        [
            helper.make_tensor_value_info(name, _ELEMENTS[np.dtype(kind)], None)
            for name, kind in zip(found, outputs, strict=True)
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    options.register_custom_ops_library(str(LIBRARY))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, given))
