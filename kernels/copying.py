"""A graph that does nothing but copy: ONNX Runtime's Python copies within a device by no other means."""

from __future__ import annotations

from onnx import helper


def source(number: int) -> str:
    return f"source.{number}"


def target(number: int) -> str:
    return f"target.{number}"


OPSET = 13  # the CUDA provider has an Identity of this version, but none of opset 21


def copying_graph(count: int, element: int) -> bytes:
    """`count` inputs, each of which becomes an output of the same shape; `element` as TensorProto names it.

    Bind both by address. An Identity between an input and an output of the graph is never optimized away.
    """
    nodes, inputs, outputs = [], [], []
    for number in range(count):
        nodes.append(helper.make_node("Identity", [source(number)], [target(number)]))
        inputs.append(helper.make_tensor_value_info(source(number), element, [f"size.{number}"]))
        outputs.append(helper.make_tensor_value_info(target(number), element, [f"size.{number}"]))
    graph = helper.make_graph(nodes, "copy", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    return bytes(model.SerializeToString())
