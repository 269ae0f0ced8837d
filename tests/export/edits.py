"""Ways to damage the folder of a sound checkpoint or artifact, as an attacker would."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file

from export.files import file_entry

Edit = Callable[[Path], object]
GRAPH = "fp32/model.onnx"


def change_config(**changes: Any) -> Edit:
    """Set keys of config.json; None removes one."""

    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        for key, value in changes.items():
            config.pop(key, None)
            if value is not None:
                config[key] = value
        (folder / "config.json").write_text(json.dumps(config), "utf-8")

    return edit


def change_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Edit:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return edit


def write(name: str, data: bytes) -> Edit:
    return lambda folder: folder.joinpath(name).write_bytes(data)


def remove(name: str) -> Edit:
    return lambda folder: folder.joinpath(name).unlink()


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index(weight_map: object) -> Edit:
    return write("model.safetensors.index.json", json.dumps({"weight_map": weight_map}).encode())


def poison(value: float) -> Edit:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.h.1.mlp.c_fc.weight"][3, 5] = value

    return change_tensors(change)


def add(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Edit:
    return change_tensors(lambda tensors: tensors.update({name: torch.zeros(shape, dtype=dtype)}))


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((folder / "manifest.json").read_text("utf-8"))
    change(data)
    (folder / "manifest.json").write_text(json.dumps(data), "utf-8")


def change_graph(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    """Change the fp32 graph, and the manifest with it, as an attacker would."""
    model = onnx.load(folder / GRAPH, load_external_data=False)
    change(model)
    (folder / GRAPH).write_bytes(model.SerializeToString())
    agree(folder)


def agree(folder: Path) -> None:
    entry = dataclasses.asdict(file_entry(folder, folder / GRAPH))
    change_manifest(folder, lambda data: data["variants"]["fp32"]["files"].__setitem__(0, entry))


def with_one_golden(data: dict[str, Any]) -> dict[str, Any]:
    """With one golden prompt, whose answers are of each kind."""
    for entry in data["variants"].values():
        entry["golden"] = [entry["golden"][0] | {"scores": [0.0]}]
    data["golden"] = data["golden"][:1]
    return data


def multiply_golden(data: dict[str, Any], times: int) -> None:
    for owner in (data, *data["variants"].values()):
        owner["golden"] *= times


def shorten_golden(data: dict[str, Any], kept: slice) -> None:
    """The first answer of fp32 loses tokens."""
    answer = data["variants"]["fp32"]["golden"][0]
    for name in ("token_ids", "logprobs"):
        answer[name] = answer[name][kept]


def add_node(model: onnx.ModelProto, operator: str, domain: str = "", **attributes: Any) -> None:
    model.graph.node.append(
        helper.make_node(operator, ["ln_f.x"], ["y"], name="evil", domain=domain, **attributes)
    )


def weight_of(model: onnx.ModelProto, name: str = "wte.weight") -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def node_of(model: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == operator)


def external(**entries: str) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        tensor = weight_of(model)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)

    return change


def add_function(model: onnx.ModelProto) -> None:
    opset = [helper.make_opsetid("", 21)]
    model.functions.append(helper.make_function("evil", "F", ["a"], ["a"], [], opset))


def add_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(weight_of(model))


def add_many(model: onnx.ModelProto) -> None:
    for number in range(400):
        model.graph.node.append(helper.make_node("Relu", ["hidden"], [f"y{number}"]))


def set_typed(model: onnx.ModelProto) -> None:
    weight_of(model).ClearField("raw_data")
    weight_of(model).float_data.extend([0.0] * 300 * 64)


def set_attribute(operator: str, name: str, value: object) -> Callable[[onnx.ModelProto], object]:
    return lambda model: node_of(model, operator).attribute.append(helper.make_attribute(name, value))


def set_type(index: int, element: int) -> Callable[[onnx.ModelProto], object]:
    return lambda model: setattr(model.graph.input[index].type.tensor_type, "elem_type", element)


def add_data(folder: Path, size: int) -> None:
    path = folder / "fp32" / "model.onnx.data"
    path.write_bytes(bytes(size))
    entry = dataclasses.asdict(file_entry(folder, path))
    change_manifest(folder, lambda data: data["variants"]["fp32"]["files"].append(entry))


def message(number: int, content: bytes) -> bytes:
    """A field of bytes as protocol buffers write it."""
    length, size = len(content), bytearray()
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + content
