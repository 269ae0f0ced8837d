"""Ready-made artifacts whose graph must not pass, each with a part of its message.

Who makes them means harm: the manifest agrees with what was changed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.files import file_entry
from tests.export.edits import (
    GRAPH,
    Edit,
    add_data,
    add_function,
    add_many,
    add_node,
    add_twice,
    agree,
    change_graph,
    change_manifest,
    external,
    message,
    node_of,
    set_attribute,
    set_type,
    set_typed,
    weight_of,
)
from tests.export.malformed.manifests import architecture
from tests.export.malformed.tokenizers import BYTE_LEVEL

GraphEdit = Callable[[onnx.ModelProto], object]


def graph(change: GraphEdit) -> Edit:
    return lambda folder: change_graph(folder, change)


def graph_bytes(data: bytes) -> Edit:
    def edit(folder: Path) -> None:
        (folder / GRAPH).write_bytes(data)
        agree(folder)

    return edit


def beside(**entries: str) -> Edit:
    """The token embedding lies in a file beside the graph."""

    def edit(folder: Path) -> None:
        add_data(folder, 76800)
        change_graph(folder, external(location="model.onnx.data", **entries))

    return edit


def over_each_other(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        external(location="model.onnx.data", offset="0", length="76800")(model)
        other = weight_of(model, "wpe.weight")
        other.ClearField("raw_data")
        other.data_location = TensorProto.EXTERNAL
        place = {"location": "model.onnx.data", "offset": "76000", "length": "24576"}
        for key, value in place.items():
            other.external_data.add(key=key, value=value)

    add_data(folder, 110_000)
    change_graph(folder, change)


def almost_no_weights(folder: Path) -> None:
    """A manifest that asks a server for a large cache, and hardly a weight."""

    def shrink(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name.endswith((".attn.c_attn.weight", "c_proj.weight", "c_fc.weight")):
                tensor.dims[:] = [1, 1]
                tensor.raw_data = bytes(4)
            elif tensor.name in ("wte.weight", "wpe.weight"):
                tensor.dims[:] = [1, 64]
                tensor.raw_data = bytes(256)
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1

    word = {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}
    one_token = {"version": "1.0", "model": word, "decoder": BYTE_LEVEL}
    (folder / "tokenizer.json").write_text(json.dumps(one_token), "utf-8")
    entry = dataclasses.asdict(file_entry(folder, folder / "tokenizer.json"))
    change_manifest(folder, lambda data: [data["variants"].pop(name) for name in ("fp16", "int8", "int4")])
    change_manifest(folder, lambda data: data.update(tokenizer=entry))
    architecture(vocab_size=1, context_length=1)(folder)
    change_graph(folder, shrink)


def scaled(name: str, factor: float) -> Edit:
    def change(model: onnx.ModelProto) -> None:
        tensor = weight_of(model, name)
        tensor.raw_data = (numpy_helper.to_array(tensor) * np.float32(factor)).tobytes()

    return graph(change)


def takes_all_memory(model: onnx.ModelProto) -> None:
    """Its logits are added to the largest of 64 GiB."""
    node_of(model, "Gemm").output[0] = "x"
    value = helper.make_tensor("value", TensorProto.UINT8, [1], [1])
    model.graph.node.extend(
        [
            helper.make_node("ConstantOfShape", ["size"], ["bytes"], value=value),
            helper.make_node("Cast", ["bytes"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["floats"], ["largest"]),
            helper.make_node("Add", ["x", "largest"], ["logits"]),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 34], np.int64), "size"))


GRAPHS: dict[str, tuple[Edit, str]] = {
    "noise": (
        graph_bytes(b"\xff" * 100),
        "fp32/model.onnx: not an ONNX model that is read: the model is truncated",
    ),
    "no graph": (graph_bytes(b""), "fp32/model.onnx: opset_import '[]'"),
    "unknown field": (graph_bytes(message(15, b"x")), "the model has the field number 15, which"),
    "graph truncated": (graph_bytes(message(7, bytes(100))[:50]), "the model: graph is truncated"),
    "graph a number": (graph_bytes(b"\x38\x01"), "the model: graph is no message"),
    "damaged field": (graph_bytes(b"\x3b"), "the model: graph is damaged"),
    "name that is no text": (
        lambda folder: graph_bytes((folder / GRAPH).read_bytes().replace(b"lm_head", b"lm_h\xffad"))(folder),
        "node 31 of graph 0 of the model: name is no UTF-8",
    ),
    "many small messages": (
        graph_bytes(message(7, b"\x0a\x00" * 2_000_000)),
        "fp32/model.onnx: not an ONNX model that is read: more than 10240 fields",
    ),
    "large graph": (
        graph_bytes(bytes(70_000_000)),
        "70000000 bytes, but a graph of 2 layers has at most 68288512",
    ),
    "operator of another domain": (
        graph(lambda model: add_node(model, "Shell", "evil")),
        "node 'evil': operator 'evil::Shell' is not allowed",
    ),
    "operator not ours": (graph(lambda model: add_node(model, "Sin")), "'ai.onnx::Sin' is not allowed"),
    "operator of onnxruntime not ours": (
        graph(lambda model: add_node(model, "Tokenizer", "com.microsoft")),
        "'com.microsoft::Tokenizer' is not allowed",
    ),
    "domain by its other name": (
        graph(lambda model: add_node(model, "Relu", "ai.onnx")),
        "operator 'ai.onnx::Relu' is not allowed",
    ),
    "loop": (
        graph(lambda model: add_node(model, "Loop", body=helper.make_graph([], "g", [], []))),
        "attribute 0 of node 32 of graph 0 of the model has the field g, which",
    ),
    "function": (graph(add_function), "the model has the field functions, which"),
    "metadata": (
        graph(lambda model: model.metadata_props.add(key="a", value="b")),
        "the model has the field metadata_props, which",
    ),
    "sparse weights": (
        graph(lambda model: model.graph.sparse_initializer.add()),
        "graph 0 of the model has the field sparse_initializer, which",
    ),
    "attribute not ours": (
        graph(set_attribute("GroupQueryAttention", "softcap", 1.0)),
        "attribute 'softcap' is not allowed",
    ),
    "attribute twice": (
        graph(set_attribute("Gemm", "transB", 1)),
        "node 'lm_head': an attribute is given twice",
    ),
    "many nodes": (graph(add_many), "432 nodes, but 2 layers have at most 384"),
    "opset": (
        graph(lambda model: setattr(model.opset_import[0], "version", 22)),
        "opset_import \"[('', 22), ('com.microsoft', 1)]\", but",
    ),
    "another domain": (
        graph(lambda model: model.opset_import.add(domain="evil", version=1)),
        "opset_import \"[('', 21), ('com.microsoft', 1), ('evil', 1)]\", but",
    ),
    "a later format": (
        graph(lambda model: setattr(model, "ir_version", 11)),
        "ir_version 11, but at most 10",
    ),
    "data in a parent folder": (
        graph(external(location="../tokenizer.json")),
        "external data in '../tokenizer.json'",
    ),
    "data at an absolute path": (graph(external(location="/etc/passwd")), "external data in '/etc/passwd'"),
    "data in a file not listed": (
        graph(external(location="model.onnx.data")),
        "external data in 'model.onnx.data'",
    ),
    "data beyond its file": (beside(offset="1", length="76800"), "to byte 76801 of a file of 76800"),
    "data of another length": (beside(offset="0", length="16"), "of 16 bytes, but type and shape take 76800"),
    "data at a negative place": (beside(offset="-1", length="76800"), "offset '-1' is no number of bytes"),
    "data of a fractional length": (beside(offset="0", length="1e9"), "length '1e9' is no number of bytes"),
    "data at a place of many digits": (beside(offset="9" * 5000, length="76800"), "offset '99999"),
    "data without a length": (beside(offset="0"), "external data by 'location, offset', but"),
    "data with a checksum": (
        beside(offset="0", length="76800", checksum="x"),
        "external data by 'checksum, length, location, offset', but",
    ),
    "weights over each other": (
        over_each_other,
        "tensor 'wpe.weight': external data at byte 76000, where another tensor lies",
    ),
    "wrong number of bytes": (
        graph(lambda model: setattr(weight_of(model), "raw_data", b"1234")),
        "tensor 'wte.weight': 4 bytes, but type and shape take 76800",
    ),
    "negative size": (
        graph(lambda model: weight_of(model).dims.__setitem__(0, -300)),
        "tensor 'wte.weight': '[-300, 64]' is no shape",
    ),
    "huge size": (
        graph(lambda model: weight_of(model).dims.__setitem__(0, 1 << 62)),
        "tensor 'wte.weight': 76800 bytes, but type and shape take 1180591620717411303424",
    ),
    "typed field": (graph(set_typed), "of graph 0 of the model has the field float_data, which"),
    "strings": (
        graph(lambda model: setattr(weight_of(model), "data_type", 8)),
        "STRING is no type of weights",
    ),
    "weight of another variant": (
        graph(lambda model: setattr(weight_of(model), "data_type", TensorProto.FLOAT16)),
        "FLOAT16 is no type of weights in the variant fp32",
    ),
    "weight twice": (graph(add_twice), "tensor 'wte.weight': the name of two tensors"),
    "input with a value": (
        graph(lambda model: setattr(weight_of(model, "ln_f.bias"), "name", "logit_rows")),
        "tensor 'logit_rows': the name of two tensors, or of an input",
    ),
    "embedding gone": (
        graph(lambda model: setattr(weight_of(model, "wpe.weight"), "name", "x")),
        "tensor wpe.weight is missing",
    ),
    "almost no weights": (almost_no_weights, "but 2 layers of the width 64 take at least 16384"),
    "an input more": (
        graph(lambda model: model.graph.input.append(helper.make_tensor_value_info("x", 1, [1]))),
        "input 'x' is not expected",
    ),
    "an input twice": (
        graph(lambda model: model.graph.input.append(model.graph.input[0])),
        "input 'input_ids' is not expected",
    ),
    "input of another type": (
        graph(set_type(5, TensorProto.FLOAT16)),
        "input past_key.0 is FLOAT16 [?, 2, ?, 32], but the manifest wants FLOAT [?, 2, ?, 32]",
    ),
    "input of a type that is none": (graph(set_type(0, 99)), "input input_ids is type 99 [?, ?], but"),
    "input of no shape": (
        graph(lambda model: model.graph.input[3].type.tensor_type.ClearField("shape")),
        "total_sequence_length is INT32 of no shape, but the manifest wants INT32 []",
    ),
    "an output less": (
        graph(lambda model: model.graph.output.pop()),
        "output 'present_value.1' is missing for kind lm",
    ),
    "ill-formed node": (
        graph(lambda model: node_of(model, "Gather").input.append("nowhere")),
        "fp32/model.onnx: onnx.checker: ",
    ),
    "other weights": (scaled("h.1.mlp.c_proj.weight", 1.5), "dry run: golden prompt"),
    "weights that are no numbers": (
        scaled("h.1.ln_2.bias", float("nan")),
        "fp32/model.onnx: dry run: the graph answers NaN or infinity",
    ),
    "all memory": (graph(takes_all_memory), "fp32/model.onnx: dry run: needs more than"),
    "shapes that do not fit": (
        graph(lambda model: weight_of(model, "h.0.ln_1.bias").dims.__setitem__(slice(None), [8, 8])),
        "fp32/model.onnx: dry run: cannot be run",
    ),
}
