"""The weights of a ready-made graph: their names, types, bytes, and places in the data file."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx
from onnx import TensorProto

from export.errors import ArtifactError
from export.graph.builder import DATA_SUFFIX
from export.validation.signature import element_name
from runtime.contract import GRAPH_FILE, Variant, shown
from runtime.manifest import Architecture

_ITEM_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.FLOAT16: 2,
    TensorProto.INT64: 8,
    TensorProto.INT8: 1,
    TensorProto.UINT8: 1,
}
_QUANTIZED = (TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT8, TensorProto.UINT8)
# The types of weights that the exporter emits; a test keeps the table equal to that.
ELEMENTS = {
    Variant.FP32: (TensorProto.FLOAT, TensorProto.INT64),
    Variant.FP16: (TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT16),
    Variant.INT8: _QUANTIZED,
    Variant.INT4: _QUANTIZED,
}
_MAX_RANK = 4
_MAX_OFFSET_DIGITS = 15

Refuse = Callable[[str], ArtifactError]


class StoredWeights:
    """`data_size` is the size of the file beside the graph in bytes, 0 without one."""

    def __init__(self, graph: onnx.GraphProto, variant: Variant, data_size: int, refuse: Refuse) -> None:
        self._graph = graph
        self._variant = variant
        self._data_size = data_size
        self._refuse = refuse

    def check(self, architecture: Architecture) -> None:
        """Raises the error that `refuse` makes for the first problem."""
        inputs = {value.name for value in self._graph.input}
        found: dict[str, onnx.TensorProto] = {}
        places: list[tuple[int, int, str]] = []
        total = 0
        for tensor in self._graph.initializer:
            where = f"tensor {shown(tensor.name)}"
            if tensor.name in found or tensor.name in inputs:
                raise self._refuse(f"{where}: the name of two tensors, or of an input")
            found[tensor.name] = tensor
            size = self._size(tensor, where)
            total += size
            if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
                places.append((self._offset(tensor, size, where), size, where))
            elif len(tensor.raw_data) != size:
                raise self._refuse(f"{where}: {len(tensor.raw_data)} bytes, but type and shape take {size}")
        self._check_places(places)
        self._check_tables(found, architecture)
        # A server allocates its cache by these sizes. Weights take at least four bits each.
        hidden = architecture.hidden_size
        least = 2 * hidden * sum(architecture.heads) * (hidden // architecture.num_heads)
        if total < least:
            raise self._refuse(
                f"weights of {total} bytes, but {architecture.num_layers} layers of the width {hidden}"
                f" take at least {least}"
            )

    def _size(self, tensor: onnx.TensorProto, where: str) -> int:
        if tensor.data_type not in ELEMENTS[self._variant]:
            name = element_name(tensor.data_type)
            raise self._refuse(f"{where}: {name} is no type of weights in the variant {self._variant.value}")
        if len(tensor.dims) > _MAX_RANK or min(tensor.dims, default=0) < 0:
            raise self._refuse(
                f"{where}: {shown(str(list(tensor.dims)))} is no shape of up to {_MAX_RANK} sizes"
            )
        return int(math.prod(tensor.dims)) * _ITEM_BYTES[tensor.data_type]

    def _offset(self, tensor: onnx.TensorProto, size: int, where: str) -> int:
        values = {item.key: item.value for item in tensor.external_data}
        location = values.get("location", GRAPH_FILE + DATA_SUFFIX)
        if location != GRAPH_FILE + DATA_SUFFIX or not self._data_size:
            raise self._refuse(
                f"{where}: external data in {shown(location)}, which is no file of the variant"
            )
        keys = sorted(item.key for item in tensor.external_data)
        if keys != ["length", "location", "offset"]:
            needed = "location, offset and length are needed"
            raise self._refuse(f"{where}: external data by {shown(', '.join(keys))}, but {needed}")
        if tensor.data_location != TensorProto.EXTERNAL or tensor.HasField("raw_data"):
            raise self._refuse(f"{where}: both in the graph and beside it")
        for key in ("offset", "length"):
            text = values[key]
            if not (text.isascii() and text.isdigit() and len(text) <= _MAX_OFFSET_DIGITS):
                raise self._refuse(f"{where}: external data: {key} {shown(text)} is no number of bytes")
        offset, length = int(values["offset"]), int(values["length"])
        if length != size:
            raise self._refuse(f"{where}: external data of {length} bytes, but type and shape take {size}")
        if offset + length > self._data_size:
            end = offset + length
            raise self._refuse(f"{where}: external data to byte {end} of a file of {self._data_size}")
        return offset

    def _check_places(self, places: list[tuple[int, int, str]]) -> None:
        end = 0
        for start, size, where in sorted(places):
            if start < end:
                raise self._refuse(f"{where}: external data at byte {start}, where another tensor lies")
            end = start + size

    def _check_tables(self, found: dict[str, onnx.TensorProto], architecture: Architecture) -> None:
        """The shapes of the embeddings: they bound the ids and positions that a server may send."""
        for name, field in (("wte.weight", "vocab_size"), ("wpe.weight", "context_length")):
            if name not in found:
                raise self._refuse(f"tensor {name} is missing")
            rows, width = getattr(architecture, field), architecture.hidden_size
            dims = list(found[name].dims)
            if dims != [rows, width]:
                raise self._refuse(
                    f"tensor {name} has the shape {dims}, but the manifest has {field} {rows}"
                    f" and hidden_size {width}"
                )
