"""A thin layer over onnx.helper: nodes named by path, weights written inside the model or beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

OPSET = 21
MICROSOFT = "com.microsoft"
IR_VERSION = 10
# Above this the weights lie in a file beside the graph: a message is held in memory several times while it is
# written and read, and ends at 2 GiB, while a file is mapped.
MAX_INLINE_BYTES = 1 << 28
DATA_SUFFIX = ".data"
_ALIGNMENT = 4096  # onnxruntime maps external weights by page

Array = NDArray[Any]


class GraphBuilder:
    """Collects one graph. Nodes are named by their place in the model, tensors after their node."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, Array] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, element: int, shape: list[int | str]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def output(self, name: str, element: int, shape: list[int | str]) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, element, shape))

    def weight(self, name: str, array: Array) -> str:
        """Add an initializer; a name that is there already is shared."""
        self._weights.setdefault(name, array)
        return name

    def integers(self, *values: int) -> str:
        """A constant `[len(values)]` int64, for shapes and axes."""
        return self.weight(f"shape.{'x'.join(map(str, values))}", np.array(values, np.int64))

    def node(
        self,
        operator: str,
        path: str,
        inputs: list[str],
        *,
        outputs: list[str] | None = None,
        **attributes: Any,
    ) -> str:
        """Add a node of the standard domain; returns the name of its first output."""
        return self._add(operator, "", path, inputs, outputs, attributes)

    def microsoft(
        self,
        operator: str,
        path: str,
        inputs: list[str],
        *,
        outputs: list[str] | None = None,
        **attributes: Any,
    ) -> str:
        """Add a node of onnxruntime's own domain; an omitted optional input or output is the empty string."""
        return self._add(operator, MICROSOFT, path, inputs, outputs, attributes)

    def _add(
        self,
        operator: str,
        domain: str,
        path: str,
        inputs: list[str],
        outputs: list[str] | None,
        attributes: dict[str, Any],
    ) -> str:
        outputs = outputs or [f"{path}.out"]
        self._nodes.append(
            helper.make_node(operator, inputs, outputs, name=path, domain=domain, **attributes)
        )
        return outputs[0]

    def save(self, path: Path) -> list[Path]:
        """Write the model; returns the files written, the graph first."""
        external = sum(array.nbytes for array in self._weights.values()) > MAX_INLINE_BYTES
        data = path.with_name(path.name + DATA_SUFFIX)
        weights = self._write_external(data) if external else self._inline()
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, initializer=weights)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="lmaas")
        path.write_bytes(model.SerializeToString())
        return [path, data] if external else [path]

    def _inline(self) -> list[onnx.TensorProto]:
        return [_describe(name, array, array.tobytes()) for name, array in self._weights.items()]

    def _write_external(self, data: Path) -> list[onnx.TensorProto]:
        tensors = []
        with data.open("wb") as file:
            for name, array in self._weights.items():
                if array.nbytes < _ALIGNMENT:  # among them shapes, from which others are inferred
                    tensors.append(_describe(name, array, array.tobytes()))
                    continue
                file.seek(-file.tell() % _ALIGNMENT, 1)
                tensor = _describe(name, array, None)
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in (
                    ("location", data.name),
                    ("offset", file.tell()),
                    ("length", array.nbytes),
                ):
                    tensor.external_data.add(key=key, value=str(value))
                file.write(np.ascontiguousarray(array).data.cast("B"))
                tensors.append(tensor)
        return tensors


def _describe(name: str, array: Array, raw: bytes | None) -> onnx.TensorProto:
    element = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = TensorProto(name=name, data_type=element, dims=array.shape)
    if raw is not None:
        tensor.raw_data = raw
    return tensor
