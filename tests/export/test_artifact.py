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
from onnx import TensorProto, helper

from export.artifact import MICROSOFT_OPERATORS, STANDARD_OPERATORS, import_artifact
from export.config import Activation
from export.errors import ArtifactError
from export.files import file_entry
from export.pipeline import export_checkpoint
from export.progress import Progress
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
    "vocabulary": (lambda data: data["architecture"].update(vocab_size=9), "the tokenizer has larger ids"),
    "huge vocabulary": (
        lambda data: data["architecture"].update(vocab_size=10**12),
        "architecture.vocab_size: 1000000000000, but it goes from 1 to 4000000",
    ),
    "no context": (lambda data: data["architecture"].update(context_length=0), "architecture.context_length"),
    "end of text": (lambda data: data["architecture"].update(eos_token_id=10**6), "is no token of"),
    "another vocabulary": (
        lambda data: data["architecture"].update(vocab_size=data["architecture"]["vocab_size"] + 1),
        "logits has the shape",
    ),
    "another cache": (lambda data: data["architecture"].update(head_size=9), "past_key.0 has the shape"),
    "layers": (lambda data: data["architecture"].update(num_layers=3), "'past_key.2' is missing"),
    "another kind": (lambda data: unproven(data).update(kind="nlu"), "for kind nlu"),
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


def external(**entries: str) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(item for item in model.graph.initializer if item.name == "wte.weight")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)

    return change


def add_function(model: onnx.ModelProto) -> None:
    opset = [helper.make_opsetid("", 21)]
    model.functions.append(helper.make_function("evil", "F", ["a"], ["a"], [], opset))


def break_a_node(model: onnx.ModelProto) -> None:
    node = next(item for item in model.graph.node if item.op_type == "Gather")
    node.input.append("nowhere")


GRAPHS: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "operator of another domain": (
        lambda model: add_node(model, "Shell", "evil"),
        "evil::Shell is not allowed",
    ),
    "operator not ours": (lambda model: add_node(model, "Sin"), "ai.onnx::Sin is not allowed"),
    "operator of onnxruntime not ours": (
        lambda model: add_node(model, "Tokenizer", "com.microsoft"),
        "com.microsoft::Tokenizer is not allowed",
    ),
    "loop": (lambda model: add_node(model, "Loop", body=helper.make_graph([], "g", [], [])), "Loop is not"),
    "a graph within": (
        lambda model: add_node(model, "Relu", body=helper.make_graph([], "g", [], [])),
        "carries a graph of its own",
    ),
    "function": (add_function, "functions"),
    "data in a parent folder": (
        external(location="../tokenizer.json"),
        "external data in '../tokenizer.json'",
    ),
    "data at an absolute path": (external(location="/etc/passwd"), "external data in '/etc/passwd'"),
    "data in a file not listed": (external(location="model.onnx.data"), "external data in 'model.onnx.data'"),
    "an input more": (
        lambda model: model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])),
        "input 'x' is not expected",
    ),
    "an output less": (lambda model: model.graph.output.pop(), "output 'present_value.1' is missing"),
    "ill-formed": (break_a_node, "onnx.checker"),
}


@pytest.mark.parametrize(("change", "message"), GRAPHS.values(), ids=GRAPHS.keys())
def test_refuses_graphs(
    change: Callable[[onnx.ModelProto], object], message: str, folder: Path, tmp_path: Path
) -> None:
    change_graph(folder, change)
    refuses(folder, tmp_path, message)


@pytest.mark.parametrize("entries", [{"offset": "1", "length": "16"}, {"offset": "-1"}, {"length": "1e9"}])
def test_refuses_data_beyond_its_file(entries: dict[str, str], folder: Path, tmp_path: Path) -> None:
    (folder / "fp32" / "model.onnx.data").write_bytes(bytes(16))
    change_graph(folder, external(location="model.onnx.data", **entries))
    entry = dataclasses.asdict(file_entry(folder, folder / "fp32" / "model.onnx.data"))
    change_manifest(folder, lambda data: data["variants"]["fp32"]["files"].append(entry))
    refuses(folder, tmp_path, "tensor 'wte.weight'")


def test_refuses_what_is_no_model(folder: Path, tmp_path: Path) -> None:
    (folder / GRAPH).write_bytes(b"\xff" * 100)
    agree(folder)
    refuses(folder, tmp_path, "not an ONNX model")


def test_refuses_links_and_missing_files(folder: Path, tmp_path: Path) -> None:
    (folder / GRAPH).rename(tmp_path / "elsewhere")
    refuses(folder, tmp_path, "missing, or no plain file")
    (folder / GRAPH).symlink_to(tmp_path / "elsewhere")
    refuses(folder, tmp_path, "missing, or no plain file")


def test_the_allowed_operators_are_those_that_are_emitted(
    artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    found: dict[str, set[str]] = {"": set(), "com.microsoft": set()}
    folders = [artifact(kind) for kind in ("lm", "classifier", "tagger", "nlu")]
    for activation in Activation:
        save_lm(tmp_path / activation.value, activation_function=activation.value)
        folders.append(tmp_path / f"{activation.value}-out")
        export_checkpoint(tmp_path / activation.value, folders[-1], name="x", variants=[Variant.FP32])
    for path in (path for folder in folders for path in folder.glob("*/model.onnx")):
        for node in onnx.load(path).graph.node:
            found[node.domain].add(node.op_type)
    assert found == {"": STANDARD_OPERATORS, "com.microsoft": MICROSOFT_OPERATORS}
