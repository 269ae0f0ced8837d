"""Products of four-bit weights whose answers do not depend on the number of rows.

Without AVX-512, ONNX Runtime's `MatMulNBits` adds up one row alone in another order than several rows. The
last bits of an answer would then depend on what else is in the batch. With a row of zeros added to every
product, none has one row alone.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

_PADS, _STARTS, _ENDS, _AXES = "padding.pads", "padding.starts", "padding.ends", "padding.axes"
_CONSTANTS = {_PADS: [0, 0, 1, 0], _STARTS: [0], _ENDS: [-1], _AXES: [0]}


# x -- Pad (one row of zeros below) -- MatMulNBits -- Slice (all rows but the last) -- out
def pad_products(model: onnx.ModelProto) -> bool:
    """Give every `MatMulNBits` one row more, in place; whether there was any.

    Its input must be `[rows, width]`.
    """
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            nodes += _padded(node)
        else:
            nodes.append(node)
    if len(nodes) == len(model.graph.node):
        return False
    for name, value in _CONSTANTS.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return True


def _padded(node: NodeProto) -> list[NodeProto]:
    product = NodeProto()
    product.CopyFrom(node)
    padded, whole = f"{node.name}.padded", f"{node.name}.whole"
    product.input[0], product.output[0] = padded, whole
    return [
        helper.make_node("Pad", [node.input[0], _PADS], [padded], name=padded),
        product,
        helper.make_node("Slice", [whole, _STARTS, _ENDS, _AXES], [node.output[0]], name=f"{node.name}.rows"),
    ]
