"""Products of eight-bit numbers against whole-number arithmetic, on whatever processor this runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kernels.session import open_plain
from runtime.contract import Variant

Bytes = NDArray[np.uint8]
Weights = NDArray[np.int8]


def product(weight: Weights, zero_point: int, folder: Path) -> onnxruntime.InferenceSession:
    """x `[rows, in]` uint8 -> (x - zero_point) @ weight `[in, out]`, as the exporter writes it."""
    constants = {  # in the order of the operator's inputs
        "weight": weight,
        "scale": np.array(1, np.float32),
        "scales": np.ones(weight.shape[1], np.float32),
        "zero_point": np.array(zero_point, np.uint8),
    }
    graph = helper.make_graph(
        [helper.make_node("MatMulIntegerToFloat", ["x", *constants], ["y"], domain="com.microsoft")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", weight.shape[1]])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    path = folder / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return open_plain(path, onnxruntime.SessionOptions())


def inputs(weight: Weights, rows: int) -> Bytes:
    """Random rows, and rows that are largest where a column is positive, or negative, and else 0."""
    x = np.random.default_rng(rows).integers(0, 256, (rows, len(weight))).astype(np.uint8)
    columns = weight[:, np.linspace(0, weight.shape[1] - 1, rows).astype(int)].T
    x[0::3] = np.where(columns[0::3] > 0, 255, 0)
    x[1::3] = np.where(columns[1::3] < 0, 255, 0)
    return x


def check(weight: Weights, zero_point: int, folder: Path) -> None:
    session = product(weight, zero_point, folder)
    for rows in (1, 2, 4, 5, 16, 33):
        x = inputs(weight, rows)
        # float64 holds these whole numbers exactly; the product is rounded once, to float32.
        exact = (x.astype(np.float64) - zero_point) @ weight.astype(np.float64)
        assert np.array_equal(session.run(None, {"x": x})[0], exact.astype(np.float32))


@pytest.mark.parametrize("zero_point", [0, 128])
@pytest.mark.parametrize(("width", "columns"), [(1, 1), (63, 17), (64, 32), (257, 48), (3072, 96)])
def test_the_largest_numbers_are_added_up_exactly(
    width: int, columns: int, zero_point: int, tmp_path: Path
) -> None:
    weight = np.full((width, columns), 127, np.int8)
    weight[:, 1::2] = -127
    check(weight, zero_point, tmp_path)


@pytest.mark.parametrize("name", ["mini-lm", "mini-nli", "mini-nlu", "mini-sentiment"])
def test_every_product_of_the_bundled_models_is_exact(
    name: str, bundled: Callable[[str], Path], tmp_path: Path
) -> None:
    graph = onnx.load(bundled(name) / Variant.INT8.value / "model.onnx").graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    turned = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose"}
    nodes = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(nodes) >= 8
    for node in nodes:
        weight = numpy_helper.to_array(constants[turned.get(node.input[1], node.input[1])])
        zero_point = int(numpy_helper.to_array(constants[node.input[4]])) if len(node.input) > 4 else 0
        check(weight.T if node.input[1] in turned else weight, zero_point, tmp_path)
