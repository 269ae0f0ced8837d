"""The content of an .onnx file of any origin. It is read, and never run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import onnx
from onnx import TensorProto

from export.errors import ExportError
from export.reading import plain_size
from export.validation.signature import element_name
from export.validation.wire import Fields, Shape, WireError, parse_model

MAX_BYTES = (1 << 31) - 1  # of a protocol buffer
MAX_FIELDS = 4_000_000  # an empty field takes a hundred bytes in memory
MAX_DEPTH = 10  # of nested messages: two levels of graphs within graphs
_STANDARD = "ai.onnx"  # the meaning of an empty domain
# Bits per element; all other types take eight.
_BITS = {
    **dict.fromkeys(("FLOAT", "INT32", "UINT32"), 32),
    **dict.fromkeys(("DOUBLE", "INT64", "UINT64", "COMPLEX64"), 64),
    **dict.fromkeys(("FLOAT16", "BFLOAT16", "INT16", "UINT16"), 16),
    **dict.fromkeys(("INT4", "UINT4", "FLOAT4E2M1"), 4),
    **dict.fromkeys(("INT2", "UINT2"), 2),
    "COMPLEX128": 128,
}


@dataclass(frozen=True, slots=True)
class ValueFacts:
    """An input or output."""

    name: str
    type: str
    shape: tuple[int | str, ...] | None  # a dynamic size is a name, or ?


@dataclass(frozen=True, slots=True)
class ExternalFacts:
    """A file beside the graph that holds weights."""

    name: str
    size: int | None  # bytes; None where it is not there


@dataclass(frozen=True, slots=True)
class GraphFacts:
    what: ClassVar[str] = "graph"

    name: str
    size: int  # bytes
    producer: str
    ir_version: int
    opsets: dict[str, int]
    operators: dict[str, dict[str, int]]  # the number of nodes of each, by domain
    inputs: tuple[ValueFacts, ...]
    outputs: tuple[ValueFacts, ...]
    tensors: int
    parameters: int
    weights: dict[str, int]  # bytes of each type
    external: tuple[ExternalFacts, ...]


def inspect_graph(path: Path) -> GraphFacts:
    """Summarize an ONNX graph; raises ExportError where the file is none."""
    model = _read(path)
    nodes, tensors = [], list(model.graph.initializer)
    for graph in _graphs(model):
        nodes += graph.node
    operators: dict[str, Counter[str]] = {}
    for node in nodes:
        operators.setdefault(_text(node.domain) or _STANDARD, Counter())[_text(node.op_type)] += 1
    weights: Counter[str] = Counter()
    for tensor in tensors:
        weights[element_name(tensor.data_type)] += _size(tensor)
    return GraphFacts(
        name=path.name,
        size=path.stat().st_size,
        producer=f"{_text(model.producer_name)} {_text(model.producer_version)}".strip(),
        ir_version=model.ir_version,
        opsets={_text(opset.domain) or _STANDARD: opset.version for opset in model.opset_import},
        operators={domain: dict(counts.most_common()) for domain, counts in sorted(operators.items())},
        inputs=tuple(_value(value) for value in model.graph.input),
        outputs=tuple(_value(value) for value in model.graph.output),
        tensors=len(tensors),
        parameters=sum(_count(tensor) for tensor in tensors),
        weights=dict(weights.most_common()),
        external=tuple(_external(path, name) for name in sorted(set(_locations(tensors)))),
    )


def _read(path: Path) -> onnx.ModelProto:
    size = plain_size(path)
    if size > MAX_BYTES:
        raise _refused(path, f"{size} bytes, but a protocol buffer has at most {MAX_BYTES}")
    data = path.read_bytes()
    try:
        model = parse_model(data, _shape(), MAX_FIELDS)
    except WireError as error:
        raise _refused(path, str(error)) from None
    if not model.HasField("graph"):
        raise _refused(path, "no graph in it")
    return model


@cache
def _shape() -> Shape:
    return Shape(onnx.ModelProto.DESCRIPTOR, _fields(onnx.ModelProto.DESCRIPTOR, MAX_DEPTH))


def _fields(descriptor: Any, depth: int) -> Fields:
    """Every field of the format, down to a depth: graphs can contain graphs."""
    return {
        field.name: None if field.message_type is None else _fields(field.message_type, depth - 1)
        for field in descriptor.fields
        if field.message_type is None or depth > 0
    }


def _graphs(model: onnx.ModelProto) -> Iterator[Any]:
    """Everything that has nodes: the graph, the graphs within its nodes, and functions."""
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += attribute.graphs
                if attribute.HasField("g"):
                    waiting.append(attribute.g)


def _value(value: onnx.ValueInfoProto) -> ValueFacts:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return ValueFacts(_text(value.name), (kind or "untyped").removesuffix("_type"), None)
    tensor = value.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else _text(dim.dim_param) or "?"
            for dim in tensor.shape.dim
        )
    return ValueFacts(_text(value.name), element_name(tensor.elem_type), shape)


def _count(tensor: onnx.TensorProto) -> int:
    return math.prod(max(0, size) for size in tensor.dims)


def _size(tensor: onnx.TensorProto) -> int:
    return math.ceil(_count(tensor) * _BITS.get(element_name(tensor.data_type), 8) / 8)


def _locations(tensors: list[onnx.TensorProto]) -> Iterator[str]:
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL:
            yield from (_text(item.value) for item in tensor.external_data if item.key == "location")


def _external(graph: Path, location: str) -> ExternalFacts:
    path = graph.parent / location
    # A graph can name any file of this machine; only files beside it are examined.
    beside = "\0" not in location and path.resolve().parent == graph.resolve().parent
    return ExternalFacts(location, path.stat().st_size if beside and path.is_file() else None)


def _text(value: str | bytes) -> str:
    """Text of the format; it is bytes where it is not UTF-8."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _refused(path: Path, why: str) -> ExportError:
    return ExportError(f"{path.name}: not an ONNX graph that is read: {why}", field="source")
