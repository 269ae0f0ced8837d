"""Ready-made artifacts: copied as they are, or refused with what was found."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf.message import Message
from onnx import TensorProto, helper

from export.artifact import import_artifact
from export.config import Activation
from export.errors import ArtifactError
from export.files import file_entry
from export.graph import builder
from export.pipeline import export_checkpoint
from export.progress import Progress
from export.stored_weights import ELEMENTS
from export.vetting import FIELDS, MICROSOFT_OPERATORS, STANDARD_OPERATORS
from runtime.contract import Manifest, Variant
from tests.export.checkpoints import save_lm

GRAPH = "fp32/model.onnx"


def ignore(progress: Progress) -> None:
    del progress


@pytest.fixture
def folder(artifact: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifact("lm"), tmp_path / "artifact"))


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((folder / "manifest.json").read_text("utf-8"))
    change(data)
    (folder / "manifest.json").write_text(json.dumps(data), "utf-8")


def change_graph(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    """Change the fp32 graph and let the manifest agree, as somebody who means harm would."""
    model = onnx.load(folder / GRAPH, load_external_data=False)
    change(model)
    (folder / GRAPH).write_bytes(model.SerializeToString())
    agree(folder)


def agree(folder: Path) -> None:
    entry = dataclasses.asdict(file_entry(folder, folder / GRAPH))
    change_manifest(folder, lambda data: data["variants"]["fp32"]["files"].__setitem__(0, entry))


def test_copies_what_the_manifest_lists(folder: Path, tmp_path: Path) -> None:
    (folder / "stowaway.txt").write_text("not listed", "utf-8")
    manifest = import_artifact(folder, tmp_path / "out", report=ignore)
    assert manifest == Manifest.load(folder)
    for path in ("manifest.json", "tokenizer.json", GRAPH, "int8/model.onnx"):
        assert (tmp_path / "out" / path).read_bytes() == (folder / path).read_bytes()
    assert not (tmp_path / "out" / "stowaway.txt").exists()


def set_path(path: str) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["variants"]["fp32"]["files"][0].update(path=path)


def unproven(data: dict[str, Any]) -> dict[str, Any]:
    """Without golden prompts, which are of one kind."""
    for entry in data["variants"].values():
        entry["golden"] = []
    data["golden"] = []
    return data


def multiply_golden(data: dict[str, Any], times: int) -> None:
    for owner in (data, *data["variants"].values()):
        owner["golden"] *= times


def shorten_golden(data: dict[str, Any], kept: slice) -> None:
    """The first answer of fp32 loses tokens."""
    answer = data["variants"]["fp32"]["golden"][0]
    for name in ("token_ids", "logprobs"):
        answer[name] = answer[name][kept]


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "schema version": (lambda data: data.update(schema_version=3), "schema_version"),
    "unknown field": (lambda data: data.update(surprise=1), "surprise: unknown field"),
    "missing field": (lambda data: data.pop("architecture"), "architecture: missing"),
    "unknown kind": (lambda data: data.update(kind="image"), "'image' is not one of"),
    "unknown variant": (lambda data: data["variants"].update(int3={"files": []}), "'int3' is not one of"),
    "no variants": (lambda data: data.update(variants={}), "variants: none"),
    "no files": (lambda data: data["variants"]["fp32"].update(files=[]), "files: a graph is needed"),
    "parent path": (set_path("../fp32/model.onnx"), "must be fp32/model.onnx"),
    "absolute path": (set_path("/etc/passwd"), "must be fp32/model.onnx"),
    "another tokenizer": (lambda data: data["tokenizer"].update(path="x.json"), "it must be tokenizer.json"),
    "size": (lambda data: data["tokenizer"].update(size=7), "size is"),
    "checksum": (lambda data: data["tokenizer"].update(sha256="0" * 64), "sha256 is"),
    "vocabulary": (
        lambda data: unproven(data)["architecture"].update(vocab_size=9),
        "has id 289, beyond vocab_size 9",
    ),
    "huge vocabulary": (
        lambda data: data["architecture"].update(vocab_size=10**12),
        "architecture.vocab_size: 1000000000000, but it goes from 1 to 4000000",
    ),
    "no context": (lambda data: data["architecture"].update(context_length=0), "architecture.context_length"),
    "end of text": (lambda data: data["architecture"].update(eos_token_id=10**6), "is no token of"),
    "another vocabulary": (
        lambda data: data["architecture"].update(vocab_size=data["architecture"]["vocab_size"] + 1),
        "output logits is FLOAT [?, 300], but the manifest wants FLOAT [?, 301]",
    ),
    "another cache": (
        lambda data: data["architecture"].update(head_size=9),
        "head_size: 9, but 32 is needed for hidden_size 64 and num_heads 2",
    ),
    "other heads": (
        lambda data: data["architecture"].update(num_heads=4, head_size=16),
        "num_heads 2, but the manifest has num_heads 4",
    ),
    "heads that do not divide": (lambda data: data["architecture"].update(num_heads=3), "not a multiple"),
    "layers": (lambda data: data["architecture"].update(num_layers=3), "2 attention nodes, but the manifest"),
    "context": (
        lambda data: data["architecture"].update(context_length=97),
        "tensor wpe.weight has the shape [96, 64], but the manifest has context_length 97",
    ),
    "another kind": (
        lambda data: unproven(data).update(kind="nlu", slot_labels=["O"]),
        "input 'position_ids' is not expected for kind nlu",
    ),
    "no labels": (lambda data: unproven(data).update(kind="classifier"), "labels: none, but the kind"),
    "labels twice": (lambda data: data.update(labels=["a", "a"]), "labels: 2, but"),
    "problem type": (lambda data: data.update(problem_type="sort"), "problem_type: 'sort' is not one of"),
    "long name": (lambda data: data.update(name="x" * 1001), "name: a text of 1001 characters"),
    "no JSON number": (
        lambda data: data["variants"]["int8"]["quality"].update(mean_kl=float("nan")),
        "NaN is no finite number",
    ),
    "many prompts": (lambda data: multiply_golden(data, 5), "golden: 20 prompts, but at most 16"),
    "answers of two lengths": (
        lambda data: shorten_golden(data, slice(1)),
        "variants.fp32.golden: answers of '[1, 8]' tokens",
    ),
    "answer that is no token": (
        lambda data: data["variants"]["fp32"]["golden"][0]["token_ids"].__setitem__(0, 300),
        "variants.fp32.golden: 300 is no token of 300",
    ),
}


@pytest.mark.parametrize(("change", "message"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_refuses_manifests(
    change: Callable[[dict[str, Any]], object], message: str, folder: Path, tmp_path: Path
) -> None:
    change_manifest(folder, change)
    refuses(folder, tmp_path, message)


def refuses(folder: Path, tmp_path: Path, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        import_artifact(folder, tmp_path / "out", report=ignore)
    assert message in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert not (tmp_path / "out").exists()


def add_node(model: onnx.ModelProto, operator: str, domain: str = "", **attributes: Any) -> None:
    model.graph.node.append(
        helper.make_node(operator, ["ln_f.x"], ["y"], name="evil", domain=domain, **attributes)
    )


def weight(model: onnx.ModelProto, name: str = "wte.weight") -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def node(model: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == operator)


def external(**entries: str) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        tensor = weight(model)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)

    return change


def add_function(model: onnx.ModelProto) -> None:
    opset = [helper.make_opsetid("", 21)]
    model.functions.append(helper.make_function("evil", "F", ["a"], ["a"], [], opset))


def add_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(weight(model))


def add_many(model: onnx.ModelProto) -> None:
    for number in range(400):
        model.graph.node.append(helper.make_node("Relu", ["hidden"], [f"y{number}"]))


def set_typed(model: onnx.ModelProto) -> None:
    weight(model).ClearField("raw_data")
    weight(model).float_data.extend([0.0] * 300 * 64)


def set_attribute(operator: str, name: str, value: object) -> Callable[[onnx.ModelProto], object]:
    return lambda model: node(model, operator).attribute.append(helper.make_attribute(name, value))


def set_type(index: int, element: int) -> Callable[[onnx.ModelProto], object]:
    return lambda model: setattr(model.graph.input[index].type.tensor_type, "elem_type", element)


GRAPHS: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "operator of another domain": (
        lambda model: add_node(model, "Shell", "evil"),
        "node 'evil': operator 'evil::Shell' is not allowed",
    ),
    "operator not ours": (lambda model: add_node(model, "Sin"), "'ai.onnx::Sin' is not allowed"),
    "operator of onnxruntime not ours": (
        lambda model: add_node(model, "Tokenizer", "com.microsoft"),
        "'com.microsoft::Tokenizer' is not allowed",
    ),
    "domain by its other name": (
        lambda model: add_node(model, "Relu", "ai.onnx"),
        "operator 'ai.onnx::Relu' is not allowed",
    ),
    "loop": (
        lambda model: add_node(model, "Loop", body=helper.make_graph([], "g", [], [])),
        "attribute 0 of node 32 of graph 0 of the model has the field g, which",
    ),
    "function": (add_function, "the model has the field functions, which"),
    "metadata": (
        lambda model: model.metadata_props.add(key="a", value="b"),
        "the model has the field metadata_props, which",
    ),
    "attribute not ours": (
        set_attribute("GroupQueryAttention", "softcap", 1.0),
        "attribute 'softcap' is not allowed",
    ),
    "attribute twice": (set_attribute("Gemm", "transB", 1), "node 'lm_head': an attribute is given twice"),
    "nodes": (add_many, "432 nodes, but 2 layers have at most 384"),
    "opset": (
        lambda model: setattr(model.opset_import[0], "version", 22),
        "opset_import \"[('', 22), ('com.microsoft', 1)]\", but",
    ),
    "domain more": (
        lambda model: model.opset_import.add(domain="evil", version=1),
        "opset_import \"[('', 21), ('com.microsoft', 1), ('evil', 1)]\", but",
    ),
    "a later format": (lambda model: setattr(model, "ir_version", 11), "ir_version 11, but at most 10"),
    "data in a parent folder": (
        external(location="../tokenizer.json"),
        "external data in '../tokenizer.json'",
    ),
    "data at an absolute path": (external(location="/etc/passwd"), "external data in '/etc/passwd'"),
    "data in a file not listed": (external(location="model.onnx.data"), "external data in 'model.onnx.data'"),
    "wrong number of bytes": (
        lambda model: setattr(weight(model), "raw_data", b"1234"),
        "tensor 'wte.weight': 4 bytes, but type and shape take 76800",
    ),
    "negative size": (
        lambda model: weight(model).dims.__setitem__(0, -300),
        "tensor 'wte.weight': '[-300, 64]' is no shape",
    ),
    "typed field": (set_typed, "of graph 0 of the model has the field float_data, which"),
    "strings": (lambda model: setattr(weight(model), "data_type", 8), "STRING is no type of weights"),
    "weight of another variant": (
        lambda model: setattr(weight(model), "data_type", TensorProto.FLOAT16),
        "FLOAT16 is no type of weights in the variant fp32",
    ),
    "weight twice": (add_twice, "tensor 'wte.weight': the name of two tensors"),
    "input with a value": (
        lambda model: setattr(weight(model, "ln_f.bias"), "name", "logit_rows"),
        "tensor 'logit_rows': the name of two tensors, or of an input",
    ),
    "embedding gone": (
        lambda model: setattr(weight(model, "wpe.weight"), "name", "x"),
        "tensor wpe.weight is missing",
    ),
    "an input more": (
        lambda model: model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])),
        "input 'x' is not expected",
    ),
    "an input twice": (
        lambda model: model.graph.input.append(model.graph.input[0]),
        "input 'input_ids' is not expected",
    ),
    "input of another type": (
        set_type(5, TensorProto.FLOAT16),
        "input past_key.0 is FLOAT16 [?, 2, ?, 32], but the manifest wants FLOAT [?, 2, ?, 32]",
    ),
    "input of a type that is none": (set_type(0, 99), "input input_ids is type 99 [?, ?], but"),
    "input of no shape": (
        lambda model: model.graph.input[3].type.tensor_type.ClearField("shape"),
        "total_sequence_length is INT32 of no shape, but the manifest wants INT32 []",
    ),
    "an output less": (lambda model: model.graph.output.pop(), "output 'present_value.1' is missing"),
    "ill-formed": (lambda model: node(model, "Gather").input.append("nowhere"), "onnx.checker"),
}


@pytest.mark.parametrize(("change", "message"), GRAPHS.values(), ids=GRAPHS.keys())
def test_refuses_graphs(
    change: Callable[[onnx.ModelProto], object], message: str, folder: Path, tmp_path: Path
) -> None:
    change_graph(folder, change)
    refuses(folder, tmp_path, message)


EXTERNAL: dict[str, tuple[dict[str, str], str]] = {
    "beyond the file": ({"offset": "1", "length": "76800"}, "to byte 76801 of a file of 76800"),
    "another length": ({"offset": "0", "length": "16"}, "of 16 bytes, but type and shape take 76800"),
    "negative": ({"offset": "-1", "length": "76800"}, "offset '-1' is no number of bytes"),
    "a float": ({"offset": "0", "length": "1e9"}, "length '1e9' is no number of bytes"),
    "without end": ({"offset": "9" * 5000, "length": "76800"}, "offset '99999"),
    "no length": ({"offset": "0"}, "external data by 'location, offset', but"),
    "checksum": (
        {"offset": "0", "length": "76800", "checksum": "x"},
        "external data by 'checksum, length, location, offset', but",
    ),
}


@pytest.mark.parametrize(("entries", "message"), EXTERNAL.values(), ids=EXTERNAL.keys())
def test_refuses_external_data(entries: dict[str, str], message: str, folder: Path, tmp_path: Path) -> None:
    add_data(folder, 76800)
    change_graph(folder, external(location="model.onnx.data", **entries))
    refuses(folder, tmp_path, message)


def test_refuses_weights_that_lie_over_each_other(folder: Path, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        external(location="model.onnx.data", offset="0", length="76800")(model)
        other = weight(model, "wpe.weight")
        other.ClearField("raw_data")
        other.data_location = TensorProto.EXTERNAL
        place = {"location": "model.onnx.data", "offset": "76000", "length": "24576"}
        for key, value in place.items():
            other.external_data.add(key=key, value=value)

    add_data(folder, 110_000)
    change_graph(folder, change)
    refuses(folder, tmp_path, "tensor 'wpe.weight': external data at byte 76000, where another tensor lies")


def add_data(folder: Path, size: int) -> None:
    path = folder / "fp32" / "model.onnx.data"
    path.write_bytes(bytes(size))
    entry = dataclasses.asdict(file_entry(folder, path))
    change_manifest(folder, lambda data: data["variants"]["fp32"]["files"].append(entry))


def test_reads_data_beside_the_graph(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "MAX_INLINE_BYTES", 10_000)
    export_checkpoint(checkpoint("lm"), tmp_path / "artifact", name="x", variants=tuple(Variant))
    import_artifact(tmp_path / "artifact", tmp_path / "out")
    assert (tmp_path / "out" / "fp32" / "model.onnx.data").stat().st_size > 100_000


@pytest.mark.parametrize("kind", ["classifier", "tagger", "nlu"])
def test_heads_pass(kind: str, artifact: Callable[[str], Path], tmp_path: Path) -> None:
    assert import_artifact(artifact(kind), tmp_path / "out") == Manifest.load(artifact(kind))


def test_refuses_more_weights_than_there_are(folder: Path, tmp_path: Path) -> None:
    """A manifest that asks a server for a large cache must bring the weights for it."""

    def shrink(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name.endswith((".attn.c_attn.weight", "c_proj.weight", "c_fc.weight")):
                tensor.dims[:] = [1, 1]
                tensor.raw_data = bytes(4)
            elif tensor.name in ("wte.weight", "wpe.weight"):
                tensor.dims[:] = [1, 64]
                tensor.raw_data = bytes(256)
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1

    change_manifest(folder, lambda data: [data["variants"].pop(name) for name in ("fp16", "int8", "int4")])
    change_manifest(
        folder, lambda data: unproven(data)["architecture"].update(vocab_size=1, context_length=1)
    )
    one_token = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}}
    (folder / "tokenizer.json").write_text(json.dumps(one_token), "utf-8")
    entry = dataclasses.asdict(file_entry(folder, folder / "tokenizer.json"))
    change_manifest(folder, lambda data: data.update(tokenizer=entry))
    change_graph(folder, shrink)
    refuses(folder, tmp_path, "but 2 layers of the width 64 take at least 16384")


def message(number: int, content: bytes) -> bytes:
    """A field of bytes as protocol buffers write it."""
    length, size = len(content), bytearray()
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + content


NO_MODELS: dict[str, tuple[bytes, str]] = {
    "noise": (b"\xff" * 100, "the model is truncated"),
    "nothing": (b"", "opset_import '[]'"),
    "unknown field": (message(15, b"x"), "the model has the field number 15, which"),
    "truncated": (message(7, bytes(100))[:50], "the model: graph is truncated"),
    "graph that is a number": (b"\x38\x01", "the model: graph is no message"),
    "group": (b"\x3b", "the model: graph is damaged"),
    "many small messages": (message(7, b"\x0a\x00" * 1_000_000), "more than 10240 fields"),
    "many small numbers": (message(7, message(5, message(1, bytes(100_000)))), "more than 10240 fields"),
    "large": (bytes(70_000_000), "70000000 bytes, but a graph of 2 layers has at most 68288512"),
}


@pytest.mark.parametrize(("data", "problem"), NO_MODELS.values(), ids=NO_MODELS.keys())
def test_refuses_what_is_no_model(data: bytes, problem: str, folder: Path, tmp_path: Path) -> None:
    (folder / GRAPH).write_bytes(data)
    agree(folder)
    refuses(folder, tmp_path, problem)


def test_refuses_links_and_missing_files(folder: Path, tmp_path: Path) -> None:
    (folder / GRAPH).rename(tmp_path / "elsewhere")
    refuses(folder, tmp_path, f"{GRAPH}: missing")
    (folder / GRAPH).symlink_to(tmp_path / "elsewhere")
    refuses(folder, tmp_path, f"{GRAPH}: a link, but an artifact has none")
    (folder / GRAPH).unlink()
    (folder / GRAPH).mkdir()
    refuses(folder, tmp_path, f"{GRAPH}: a folder, but a plain file is needed")
    (folder / "fp32").rename(tmp_path / "folder")
    (folder / "fp32").symlink_to(tmp_path / "folder")
    refuses(folder, tmp_path, "fp32: a link, but an artifact has none")
    (folder / "manifest.json").rename(tmp_path / "manifest.json")
    (folder / "manifest.json").symlink_to(tmp_path / "manifest.json")
    refuses(folder, tmp_path, "manifest.json: a link, but an artifact has none")


def test_what_is_allowed_is_what_is_emitted(
    artifact: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [artifact(kind) for kind in ("lm", "classifier", "tagger", "nlu")]
    for activation in Activation:
        save_lm(tmp_path / activation.value, activation_function=activation.value)
        folders.append(tmp_path / f"{activation.value}-out")
        export_checkpoint(tmp_path / activation.value, folders[-1], name="x", variants=[Variant.FP32])
    monkeypatch.setattr(builder, "MAX_INLINE_BYTES", 100_000)
    export_checkpoint(tmp_path / "relu", tmp_path / "beside", name="x", variants=[Variant.FP32])
    folders.append(tmp_path / "beside")
    operators: dict[str, dict[str, set[str]]] = {"": {}, "com.microsoft": {}}
    elements: dict[Variant, set[int]] = {variant: set() for variant in Variant}
    fields: dict[str, Any] = {}
    for path in (path for folder in folders for path in folder.glob("*/model.onnx")):
        model = onnx.load(path, load_external_data=False)
        collect_fields(model, fields)
        for node in model.graph.node:
            names = operators[node.domain].setdefault(node.op_type, set())
            names |= {attribute.name for attribute in node.attribute}
        elements[Variant(path.parent.name)] |= {tensor.data_type for tensor in model.graph.initializer}
    assert operators[""] == {name: set(names) for name, names in STANDARD_OPERATORS.items()}
    assert operators["com.microsoft"] == {name: set(names) for name, names in MICROSOFT_OPERATORS.items()}
    assert elements == {variant: set(types) for variant, types in ELEMENTS.items()}
    assert fields == FIELDS


def collect_fields(message: Message, into: dict[str, Any]) -> None:
    """The names of the fields that are set, as a tree."""
    for field, value in message.ListFields():
        if field.message_type is None:
            into[field.name] = None
            continue
        for inner in value if field.is_repeated else [value]:
            collect_fields(inner, into.setdefault(field.name, {}))
