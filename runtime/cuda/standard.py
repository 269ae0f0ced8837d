"""An `lm` graph in standard operators of ONNX alone, for compilers that do not know ONNX Runtime's own.

It has the inputs and outputs of `LmGraph`, without TOTAL_SEQUENCE_LENGTH, and reads its weights from the same
file. Keys and values are written into caches of a fixed number of rows by TensorScatter, and Attention reads
all rows of a cache under a mask: a token reads the rows up to its own. (Attention can take the number of
valid rows instead, `nonpad_kv_seqlen`, but TensorRT-RTX 1.7.1 parses that input and ignores it.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from runtime.contract import LmGraph

OPSET = 24  # the first with TensorScatter
IR_VERSION = 11


def standard_model(graph: Path, context: int, *, masked: bool = True) -> onnx.ModelProto:
    """The weights stay in the folder of `graph`; `context` is the number of rows of a cache.

    Without a mask, Attention reads rows that nothing has written: its compiler has to limit them.
    """
    model = onnx.load(graph, load_external_data=False)
    _Rewriter(model, context, masked).rewrite()
    return model


class _Rewriter:
    def __init__(self, model: onnx.ModelProto, context: int, masked: bool) -> None:
        self._model = model
        self._context = context
        self._masked = masked
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._ways: dict[str, Callable[[NodeProto], None]] = {
            "GroupQueryAttention": self._attention,
            "SkipLayerNormalization": self._skip_norm,
            "FastGelu": self._gelu,
            "BiasGelu": self._gelu,
        }

    def rewrite(self) -> None:
        graph = self._model.graph
        self._rows()
        for node in graph.node:
            self._ways.get(node.op_type, self._nodes.append)(node)
        del graph.node[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._constants.values())
        self._change_inputs()
        del self._model.opset_import[:]
        self._model.opset_import.append(helper.make_opsetid("", OPSET))
        self._model.ir_version = IR_VERSION

    def _change_inputs(self) -> None:
        graph = self._model.graph
        kept = [value for value in graph.input if value.name != LmGraph.TOTAL_SEQUENCE_LENGTH]
        for value in (*kept, *graph.output):
            if value.name.startswith(("past_", "present_")):
                value.type.tensor_type.shape.dim[2].Clear()
                value.type.tensor_type.shape.dim[2].dim_value = self._context
        del graph.input[:]
        graph.input.extend(kept)

    # seqlens_k + 1 - length = the row that a sequence's first new token is written to
    # position_ids >= row of the cache = whether a token reads it
    def _rows(self) -> None:
        length = self._add("Shape", "standard.length", [LmGraph.INPUT_IDS], start=1, end=2)
        last = self._add("Cast", "standard.last", [LmGraph.SEQLENS_K], to=TensorProto.INT64)
        stop = self._add("Add", "standard.stop", [last, self._integers(1)])
        self._first = self._add("Sub", "standard.first", [stop, length])
        if self._masked:
            axes = self._integers(1, 3)
            positions = self._add("Unsqueeze", "standard.positions", [LmGraph.POSITION_IDS, axes])
            rows = self._constant("cache.rows", np.arange(self._context))
            self._mask = self._add("GreaterOrEqual", "standard.mask", [positions, rows])

    # packed -- Split --+-- query -- * scale ----------------------------+
    #                   +-- key   -- TensorScatter into past -- present --+-- Attention -- out
    #                   +-- value -- TensorScatter into past -- present --+
    # (mask) -------------------------------------------------------------+
    def _attention(self, node: NodeProto) -> None:
        path, attributes = node.name, _attributes(node)
        parts = [f"{path}.{part}" for part in ("query", "key", "value")]
        self._add("Split", f"{path}.split", [node.input[0]], parts, axis=2, num_outputs=3)
        heads = self._integers(0, 0, attributes["num_heads"], -1)
        for part in parts:
            self._add("Reshape", f"{part}.heads", [part, heads])
            self._add("Transpose", f"{part}.rows", [f"{part}.heads"], perm=[0, 2, 1, 3])
        caches = list(node.output[1:3])
        for part, past, present in zip(parts[1:], node.input[3:5], caches, strict=True):
            inputs = [past, f"{part}.rows", self._first]
            self._add("TensorScatter", f"{part}.written", inputs, [present], axis=2, mode="linear")
        # TensorRT has fused kernels for attention without a scale alone.
        scaled = self._add(
            "Mul", f"{parts[0]}.scaled", [f"{parts[0]}.rows", self._scale(attributes["scale"])]
        )
        mask = [self._mask] if self._masked else []
        self._add("Attention", f"{path}.heads", [scaled, *caches, *mask], scale=1.0, is_causal=0)
        self._add("Transpose", f"{path}.tokens", [f"{path}.heads"], perm=[0, 2, 1, 3])
        flat = self._integers(0, 0, -1)
        self._add("Reshape", path, [f"{path}.tokens", flat], [node.output[0]])

    # x (+ bias) -- + skip -- sum -- LayerNormalization -- normed
    def _skip_norm(self, node: NodeProto) -> None:
        path, (x, skip, scale, shift, *bias) = node.name, node.input
        total = node.output[3] if len(node.output) > 3 else f"{path}.sum"
        if bias:
            x = self._add("Add", f"{path}.biased", [x, bias[0]])
        self._add("Add", f"{path}.add", [x, skip], [total])
        epsilon = _attributes(node)["epsilon"]
        self._add(
            "LayerNormalization", path, [total, scale, shift], [node.output[0]], axis=-1, epsilon=epsilon
        )

    def _gelu(self, node: NodeProto) -> None:
        added = self._add("Add", f"{node.name}.biased", list(node.input))
        way = "tanh" if node.op_type == "FastGelu" else "none"
        self._add("Gelu", node.name, [added], [node.output[0]], approximate=way)

    def _add(
        self,
        operator: str,
        path: str,
        inputs: Sequence[str],
        outputs: Sequence[str] | None = None,
        **attributes: Any,
    ) -> str:
        """The name of the first output, which is the node's where none is given."""
        outputs = outputs or [path]
        self._nodes.append(helper.make_node(operator, list(inputs), list(outputs), name=path, **attributes))
        return outputs[0]

    def _scale(self, value: float) -> str:
        """A scalar in the type of keys and values."""
        keys = next(item for item in self._model.graph.input if item.name == LmGraph.past_key(0))
        element = helper.tensor_dtype_to_np_dtype(keys.type.tensor_type.elem_type)
        return self._constant(f"scale.{value}", np.array(value, element))

    def _integers(self, *values: int) -> str:
        return self._constant("x".join(map(str, values)), np.array(values, np.int64))

    def _constant(self, path: str, array: NDArray[Any]) -> str:
        name = f"standard.{path}"
        self._constants[name] = numpy_helper.from_array(array, name)
        return name


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
