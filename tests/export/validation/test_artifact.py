"""Ready-made artifacts: copied as they are, or refused with what was found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf.message import Message

from export.checkpoint.config import Activation
from export.graph import builder
from export.pipeline import export_checkpoint
from export.progress import Progress
from export.validation.artifact import import_artifact
from export.validation.graph import FIELDS, MICROSOFT_OPERATORS, STANDARD_OPERATORS
from export.validation.stored_weights import ELEMENTS
from runtime.contract import Variant
from runtime.manifest import Manifest
from tests.export.checkpoints import save_lm
from tests.export.edits import (
    GRAPH,
)


def ignore(progress: Progress) -> None:
    del progress


@pytest.fixture
def folder(artifact: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifact("lm"), tmp_path / "artifact"))


def test_copies_what_the_manifest_lists(folder: Path, tmp_path: Path) -> None:
    (folder / "stowaway.txt").write_text("not listed", "utf-8")
    manifest = import_artifact(folder, tmp_path / "out", report=ignore)
    assert manifest == taken_over(folder)
    for path in ("tokenizer.json", GRAPH, "int8/model.onnx"):
        assert (tmp_path / "out" / path).read_bytes() == (folder / path).read_bytes()
    assert not (tmp_path / "out" / "stowaway.txt").exists()


def test_reads_data_beside_the_graph(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "MAX_INLINE_BYTES", 10_000)
    export_checkpoint(checkpoint("lm"), tmp_path / "artifact", name="x", variants=tuple(Variant))
    import_artifact(tmp_path / "artifact", tmp_path / "out")
    assert (tmp_path / "out" / "fp32" / "model.onnx.data").stat().st_size > 100_000


@pytest.mark.parametrize("kind", ["classifier", "tagger", "nlu", "reader", "pair_reader", "joint_reader"])
def test_heads_pass(kind: str, artifact: Callable[[str], Path], tmp_path: Path) -> None:
    assert import_artifact(artifact(kind), tmp_path / "out") == taken_over(artifact(kind))


def taken_over(folder: Path) -> Manifest:
    """The manifest as it is kept: with a word on whose figures these are."""
    manifest = Manifest.load(folder)
    manifest.provenance["card"] = "as its maker declared it"
    return manifest


def test_it_goes_by_another_name_where_it_is_given_one(
    artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    assert import_artifact(artifact("nlu"), tmp_path / "out", name="other").name == "other"
    assert Manifest.load(tmp_path / "out").name == "other"


def test_what_is_allowed_is_what_is_emitted(
    artifact: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ("lm", "classifier", "tagger", "nlu", "reader", "pair_reader", "joint_reader")
    folders = [artifact(kind) for kind in kinds]
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
