"""Compares one graph of a ready-made artifact with its manifest and with what this exporter writes.

Nothing is loaded or run here; `export.validation.dry_run` does that with a graph that passed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from export.errors import ArtifactError
from export.graph.builder import IR_VERSION, MAX_INLINE_BYTES, MICROSOFT, OPSET
from export.validation.signature import Value, expected_values
from export.validation.stored_weights import StoredWeights
from export.validation.wire import Shape, WireError, parse_model
from runtime.contract import Variant, shown
from runtime.manifest import Manifest

# The operators that the exporter emits, with the attributes that it sets: a server never runs any other.
# Tests keep this table, and the fields below, equal to what is emitted.
STANDARD_OPERATORS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("Abs", "Add", "And", "CumSum", "Div", "Equal", "Expand", "Gather", "Greater", "LessOrEqual"), ()
    ),
    **dict.fromkeys(("MatMul", "Max", "Mod", "Mul", "Not", "Or", "Range", "Relu", "Reshape"), ()),
    **dict.fromkeys(("Slice", "Sqrt", "Squeeze", "Sub", "Unsqueeze"), ()),
    "Cast": ("to",),
    "Concat": ("axis",),
    "ConstantOfShape": ("value",),
    "DequantizeLinear": ("axis",),
    "Gemm": ("transB",),
    "Identity": (),
    "QuantizeLinear": ("axis", "block_size", "output_dtype"),
    "ReduceMax": ("keepdims",),
    "ReduceSum": ("keepdims",),
    "Shape": ("start", "end"),
    "Split": ("axis", "num_outputs"),
    "Transpose": ("perm",),
}
MICROSOFT_OPERATORS: dict[str, tuple[str, ...]] = {
    "BiasGelu": (),
    "FastGelu": (),
    "GroupQueryAttention": ("num_heads", "kv_num_heads", "scale"),
    "MatMulIntegerToFloat": (),
    "MatMulNBits": ("K", "N", "bits", "block_size", "accuracy_level"),
    "MultiHeadAttention": ("num_heads", "scale"),
    "SkipLayerNormalization": ("epsilon",),
}
_ATTENTION = ("GroupQueryAttention", "MultiHeadAttention")
_OPERATORS = {"": STANDARD_OPERATORS, MICROSOFT: MICROSOFT_OPERATORS}
_OPSETS = [("", OPSET), (MICROSOFT, 1)]

_DIM = {"dim_value": None, "dim_param": None}
_VALUE = {"name": None, "type": {"tensor_type": {"elem_type": None, "shape": {"dim": _DIM}}}}
_TENSOR = {"name": None, "dims": None, "data_type": None}
_WEIGHT = {**_TENSOR, "raw_data": None, "data_location": None, "external_data": {"key": None, "value": None}}
_ATTRIBUTE = {**dict.fromkeys(("name", "type", "f", "i", "ints")), "t": {**_TENSOR, "int32_data": None}}
_NODE = {**dict.fromkeys(("input", "output", "name", "op_type", "domain")), "attribute": _ATTRIBUTE}
FIELDS = {
    **dict.fromkeys(("ir_version", "producer_name")),
    "opset_import": {"domain": None, "version": None},
    "graph": {"name": None, "node": _NODE, "initializer": _WEIGHT, "input": _VALUE, "output": _VALUE},
}
_SHAPE = Shape(onnx.ModelProto.DESCRIPTOR, FIELDS)

# The exporter emits about 35 nodes and 460 fields per layer, and about as many outside of the layers.
_NODES_PER_LAYER, _MORE_NODES = 64, 256
_FIELDS_PER_LAYER, _MORE_FIELDS = 1024, 8192
_BYTES_PER_LAYER = 1 << 16  # in a graph whose weights are in another file


def check_graph(folder: Path, variant: Variant, manifest: Manifest) -> None:
    """Validate the graph of one variant of the artifact `folder`; raises ArtifactError with what was found.

    The caller has checked that the files of the variant exist and have the manifest's sizes.
    """
    _GraphValidator(folder, variant, manifest).check()


class _GraphValidator:
    def __init__(self, folder: Path, variant: Variant, manifest: Manifest) -> None:
        entry = manifest.variants[variant]
        self._path = entry.graph.path
        self._file = folder / self._path
        self._size = entry.graph.size
        self._data_size = sum(file.size for file in entry.files[1:])
        self._variant = variant
        self._manifest = manifest
        self._layers = manifest.architecture.num_layers

    def check(self) -> None:
        model = self._read()
        self._check_versions(model)
        graph = model.graph
        self._check_nodes(graph)
        self._check_attention(graph)
        inputs, outputs = expected_values(self._manifest, self._variant)
        self._check_values("input", graph.input, inputs)
        self._check_values("output", graph.output, outputs)
        StoredWeights(graph, self._variant, self._data_size, self._wrong).check(self._manifest.architecture)
        try:
            onnx.checker.check_model(str(self._file))
        except Exception as error:  # the library raises errors of many types
            raise self._wrong(f"onnx.checker: {self._complaint(error)}") from None

    def _read(self) -> onnx.ModelProto:
        most = MAX_INLINE_BYTES + _BYTES_PER_LAYER * (self._layers + 16)
        if self._size > most:
            raise self._wrong(f"{self._size} bytes, but a graph of {self._layers} layers has at most {most}")
        data = self._file.read_bytes()
        try:
            return parse_model(data, _SHAPE, _FIELDS_PER_LAYER * self._layers + _MORE_FIELDS)
        except WireError as error:
            raise self._wrong(f"not an ONNX model that is read: {error}") from None

    def _check_versions(self, model: onnx.ModelProto) -> None:
        if model.ir_version > IR_VERSION:
            raise self._wrong(f"ir_version {model.ir_version}, but at most {IR_VERSION} is read")
        found = sorted((opset.domain, opset.version) for opset in model.opset_import)
        if found != _OPSETS:
            raise self._wrong(f"opset_import {shown(str(found))}, but {_OPSETS} is needed")

    def _check_nodes(self, graph: onnx.GraphProto) -> None:
        most = _NODES_PER_LAYER * self._layers + _MORE_NODES
        if len(graph.node) > most:
            raise self._wrong(f"{len(graph.node)} nodes, but {self._layers} layers have at most {most}")
        for node in graph.node:
            where = f"node {shown(node.name)}"
            allowed = _OPERATORS.get(node.domain, {}).get(node.op_type)
            if allowed is None:
                operator = shown(f"{node.domain or 'ai.onnx'}::{node.op_type}")
                raise self._wrong(f"{where}: operator {operator} is not allowed")
            for attribute in node.attribute:
                if attribute.name not in allowed:
                    raise self._wrong(f"{where}: attribute {shown(attribute.name)} is not allowed")
                value = attribute.t
                if attribute.HasField("t") and (list(value.dims), len(value.int32_data)) != ([1], 1):
                    raise self._wrong(f"{where}: attribute {attribute.name} is a tensor of more than 1 value")
            if len({attribute.name for attribute in node.attribute}) != len(node.attribute):
                raise self._wrong(f"{where}: an attribute is given twice")

    def _check_attention(self, graph: onnx.GraphProto) -> None:
        found = [node for node in graph.node if node.op_type in _ATTENTION]
        if len(found) != self._layers:
            raise self._wrong(f"{len(found)} attention nodes, but the manifest has {self._layers} layers")
        for node, heads in zip(found, self._manifest.architecture.heads, strict=True):
            for attribute in node.attribute:
                if attribute.name != "scale" and attribute.i != heads:
                    raise self._wrong(
                        f"node {shown(node.name)}: {attribute.name} {attribute.i},"
                        f" but the manifest has {heads} heads there"
                    )

    def _check_values(self, what: str, values: Any, expected: dict[str, Value]) -> None:
        kind, seen = self._manifest.kind.value, set()
        for value in values:
            if value.name not in expected or value.name in seen:
                raise self._wrong(f"{what} {shown(value.name)} is not expected for kind {kind}")
            seen.add(value.name)
            found, wanted = Value.of(value), expected[value.name]
            if found != wanted:
                raise self._wrong(f"{what} {value.name} is {found}, but the manifest wants {wanted}")
        missing = [name for name in expected if name not in seen]
        if missing:
            raise self._wrong(f"{what} {missing[0]!r} is missing for kind {kind}")

    def _wrong(self, problem: str) -> ArtifactError:
        return ArtifactError(f"{self._path}: {problem}", field=self._path)

    def _complaint(self, error: Exception) -> str:
        text = str(error).replace(str(self._file), self._path)
        return " ".join(text.split())[:200] or type(error).__name__
