"""A thin layer over onnx.helper: nodes named by path, weights written inside the model or beside it."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

OPSET = 21
MICROSOFT = "com.microsoft"
IR_VERSION = 10
# Above this the weights are in a file beside the graph, which is memory-mapped. A protocol buffer has at most
# 2 GiB, and is in memory several times while it is written or read.
MAX_INLINE_BYTES = 1 << 26
DATA_SUFFIX = ".data"
_ALIGNMENT = 4096  # onnxruntime maps external weights by page

Array = NDArray[Any]


class GraphBuilder:
    """Collects one graph. Nodes are named by their place in the model, tensors after their node.

    Weights are written at once and not kept: a model larger than the machine's memory can be exported.
    """

    def __init__(self, name: str, path: Path) -> None:
        self._name = name
        self._path = path
        self._nodes: list[onnx.NodeProto] = []
        self._weights = _WeightWriter(path.with_name(path.name + DATA_SUFFIX))
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, element: int, shape: list[int | str]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def output(self, name: str, element: int, shape: list[int | str]) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, element, shape))

    def has_weight(self, name: str) -> bool:
        return name in self._weights.tensors

    def weight(self, name: str, array: Array) -> str:
        """Add an initializer, unless the graph has one of that name; then that one is shared."""
        if not self.has_weight(name):
            self._weights.add(name, array)
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

    def save(self) -> list[Path]:
        """Write the model; returns the files written, the graph first."""
        files = self._weights.close()
        tensors = self._weights.tensors.values()
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, initializer=tensors)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="lmaas")
        self._path.write_bytes(model.SerializeToString())
        return [self._path, *files]


class _WeightWriter:
    """Keeps weights in the graph while they are few; otherwise all but the smallest go to the file `data`."""

    def __init__(self, data: Path) -> None:
        self.tensors: dict[str, TensorProto] = {}
        self._data = data
        self._file: IO[bytes] | None = None
        self._inline_bytes = 0

    def add(self, name: str, array: Array) -> None:
        element = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, data_type=element, dims=array.shape)
        if self._file is None and self._inline_bytes + array.nbytes > MAX_INLINE_BYTES:
            self._move_out()
        # Small tensors stay in the graph: shape inference needs those that hold shapes.
        if self._file is not None and array.nbytes >= _ALIGNMENT:
            self._write(tensor, np.ascontiguousarray(array).data.cast("B"))
        else:
            tensor.raw_data = array.tobytes()
            self._inline_bytes += array.nbytes
        self.tensors[name] = tensor

    def close(self) -> list[Path]:
        if self._file is None:
            return []
        self._file.close()
        return [self._data]

    def _move_out(self) -> None:
        self._file = self._data.open("wb")
        for tensor in self.tensors.values():
            if len(tensor.raw_data) >= _ALIGNMENT:
                raw = tensor.raw_data
                tensor.ClearField("raw_data")
                self._write(tensor, raw)

    def _write(self, tensor: TensorProto, raw: bytes | memoryview) -> None:
        assert self._file is not None
        self._file.seek(-self._file.tell() % _ALIGNMENT, 1)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": self._data.name, "offset": self._file.tell(), "length": len(raw)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._file.write(raw)
