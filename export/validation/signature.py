"""The inputs and outputs that a graph must have according to its manifest."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto

from runtime.contract import HeadGraph, Kind, LmGraph, Variant
from runtime.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output; a size of None is dynamic, a shape of None is not given."""

    element: int
    shape: tuple[int | None, ...] | None

    @classmethod
    def of(cls, value: onnx.ValueInfoProto) -> Value:
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            return cls(tensor.elem_type, None)
        sizes = (dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
        return cls(tensor.elem_type, tuple(sizes))

    def __str__(self) -> str:
        if self.shape is None:
            return f"{element_name(self.element)} of no shape"
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{element_name(self.element)} [{sizes}]"[:120]


def element_name(element: int) -> str:
    known = element in TensorProto.DataType.values()
    return str(TensorProto.DataType.Name(element)) if known else f"type {element}"


def expected_values(manifest: Manifest, variant: Variant) -> tuple[dict[str, Value], dict[str, Value]]:
    """The inputs and outputs that `export.graph` writes, by their names."""
    rows = Value(TensorProto.INT64, (None, None))
    if manifest.kind is not Kind.LM:
        inputs = {HeadGraph.INPUT_IDS: rows, HeadGraph.LENGTHS: Value(TensorProto.INT64, (None,))}
        outputs = {HeadGraph.LOGITS: Value(TensorProto.FLOAT, (None, len(manifest.labels)))}
        if manifest.kind is Kind.NLU:
            slots = Value(TensorProto.FLOAT, (None, None, len(manifest.slot_labels)))
            outputs |= {HeadGraph.SLOT_LOGITS: slots}
        if manifest.slot_transitions:
            tags = len(manifest.slot_labels)
            outputs |= {HeadGraph.SLOT_TRANSITIONS: Value(TensorProto.FLOAT, (tags + 1, tags))}
        return inputs, outputs
    shape = manifest.architecture
    inputs = {
        LmGraph.INPUT_IDS: rows,
        LmGraph.POSITION_IDS: rows,
        LmGraph.SEQLENS_K: Value(TensorProto.INT32, (None,)),
        LmGraph.TOTAL_SEQUENCE_LENGTH: Value(TensorProto.INT32, ()),
        LmGraph.LOGIT_ROWS: Value(TensorProto.INT64, (None,)),
    }
    outputs = {
        LmGraph.LOGITS: Value(TensorProto.FLOAT, (None, shape.vocab_size)),
        LmGraph.HIDDEN: Value(TensorProto.FLOAT, (None, shape.hidden_size)),
    }
    element = TensorProto.FLOAT16 if variant is Variant.FP16 else TensorProto.FLOAT
    for layer, heads in enumerate(shape.heads):
        cache = Value(element, (None, heads, None, shape.head_size))
        inputs |= {LmGraph.past_key(layer): cache, LmGraph.past_value(layer): cache}
        outputs |= {LmGraph.present_key(layer): cache, LmGraph.present_value(layer): cache}
    return inputs, outputs
