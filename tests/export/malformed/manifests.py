"""Ready-made artifacts whose manifest or files must not pass, each with a part of its message."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.export.edits import (
    GRAPH,
    Edit,
    change_manifest,
    multiply_golden,
    shorten_golden,
    with_one_golden,
    write,
)

ManifestEdit = Callable[[dict[str, Any]], object]


def manifest(change: ManifestEdit) -> Edit:
    return lambda folder: change_manifest(folder, change)


def architecture(**changes: int | list[int]) -> Edit:
    """Golden answers are of tokens that any vocabulary has: they are looked at first."""

    def change(data: dict[str, Any]) -> None:
        with_one_golden(data)["architecture"].update(changes)
        for entry in data["variants"].values():
            (answer,) = entry["golden"]
            answer["token_ids"] = [0] * len(answer["token_ids"])

    return manifest(change)


def linked(path: str) -> Edit:
    def edit(folder: Path) -> None:
        target = (folder / path).rename(folder.parent / "elsewhere")
        (folder / path).symlink_to(target)

    return edit


def folder_in_place(folder: Path) -> None:
    (folder / GRAPH).unlink()
    (folder / GRAPH).mkdir()


def file_in_place(folder: Path) -> None:
    shutil.rmtree(folder / "int8")
    (folder / "int8").write_bytes(b"")


MANIFESTS: dict[str, tuple[Edit, str]] = {
    "manifest truncated": (write("manifest.json", b'{"name": "x'), "manifest.json: not JSON: Unterminated"),
    "manifest empty": (
        write("manifest.json", b""),
        "manifest.json: not JSON: Expecting value: line 1 column 1",
    ),
    "manifest a list": (write("manifest.json", b"[]"), "manifest.json: an object is needed, not list"),
    "manifest nested": (
        write("manifest.json", b"[" * 100_000),
        "manifest.json: not JSON that is read: nested",
    ),
    "manifest not UTF-8": (write("manifest.json", b'{"name": "\xff'), "manifest.json: not UTF-8 at byte 10"),
    "manifest large": (write("manifest.json", bytes(17 << 20)), "manifest.json: 17825792 bytes, but at most"),
    "field twice": (write("manifest.json", b'{"kind": 1, "kind": 2}'), "the name 'kind' comes twice"),
    "half a character": (
        manifest(lambda data: data.update(name="\ud800")),
        "a string holds \\ud800, a lone surrogate",
    ),
    "number of many digits": (
        write("manifest.json", b'{"schema_version": ' + b"9" * 5001 + b"}"),
        "manifest.json: not JSON: a number of 5001 digits",
    ),
    "quality not a number": (
        manifest(lambda data: data["variants"]["int8"]["quality"].update(mean_kl=float("nan"))),
        "manifest.json: not JSON: NaN is no finite number",
    ),
    "schema version": (manifest(lambda data: data.update(schema_version=3)), "schema_version: 3, but this"),
    "unknown field": (manifest(lambda data: data.update(surprise=1)), "manifest.surprise: unknown field"),
    "missing field": (manifest(lambda data: data.pop("architecture")), "manifest.architecture: missing"),
    "another type": (manifest(lambda data: data.update(nlu_echo=1)), "manifest.nlu_echo: bool is needed"),
    "unknown kind": (manifest(lambda data: data.update(kind="image")), "'image' is not one of"),
    "unknown variant": (
        manifest(lambda data: data["variants"].update(int3={"files": []})),
        "'int3' is not one of",
    ),
    "no variants": (manifest(lambda data: data.update(variants={})), "manifest.json: variants: none"),
    "no files": (
        manifest(lambda data: data["variants"]["fp32"].update(files=[])),
        "variants.fp32.files: a graph is needed",
    ),
    "parent path": (
        manifest(lambda data: data["variants"]["fp32"]["files"][0].update(path="../fp32/model.onnx")),
        "variants.fp32.files: \"['../fp32/model.onnx']\", but they must be fp32/model.onnx",
    ),
    "absolute path": (
        manifest(lambda data: data["variants"]["fp32"]["files"][0].update(path="/etc/passwd")),
        "variants.fp32.files: \"['/etc/passwd']\", but they must be",
    ),
    "another tokenizer": (
        manifest(lambda data: data["tokenizer"].update(path="../x.json")),
        "tokenizer.path: '../x.json', but it must be tokenizer.json",
    ),
    "size": (manifest(lambda data: data["tokenizer"].update(size=7)), "but the manifest says 7"),
    "checksum": (
        manifest(lambda data: data["tokenizer"].update(sha256="0" * 64)),
        "tokenizer.json: sha256 is",
    ),
    "vocabulary": (architecture(vocab_size=9), "has id 289, beyond vocab_size 9"),
    "another vocabulary": (
        architecture(vocab_size=301),
        "output logits is FLOAT [?, 300], but the manifest wants FLOAT [?, 301]",
    ),
    "huge vocabulary": (
        architecture(vocab_size=10**12),
        "architecture.vocab_size: 1000000000000, but it goes from 1 to 4000000",
    ),
    "no context": (architecture(context_length=0), "architecture.context_length: 0, but it goes from 1"),
    "another context": (
        architecture(context_length=97),
        "tensor wpe.weight has the shape [96, 64], but the manifest has context_length 97",
    ),
    "end of text": (architecture(eos_token_id=10**6), "eos_token_id: 1000000 is no token of 300"),
    "no end of text for an echo": (
        manifest(lambda data: data.update(nlu_echo=True) or data["architecture"].update(eos_token_id=None)),
        "architecture.eos_token_id: none, but nlu_echo needs it",
    ),
    "transitions of no slots": (
        manifest(lambda data: data.update(slot_transitions=True)),
        "slot_transitions: only a model of intents and at most 256 slot labels has them",
    ),
    "another cache": (
        architecture(head_size=9),
        "head_size: 9, but 32 is needed for hidden_size 64 and num_heads 2",
    ),
    "other heads": (
        architecture(num_heads=4, head_size=16),
        "num_heads 2, but the manifest has 4 heads there",
    ),
    "heads of another number of layers": (
        architecture(layer_heads=[2]),
        "architecture.layer_heads: 1 numbers, but there are 2 layers",
    ),
    "more heads than fit": (
        architecture(layer_heads=[2, 3]),
        "architecture.layer_heads: 3, but it goes from 1 to num_heads 2",
    ),
    "heads that the graph has not": (
        architecture(layer_heads=[2, 1]),
        "num_heads 2, but the manifest has 1 heads there",
    ),
    "heads that do not divide": (
        architecture(num_heads=3),
        "num_heads: 3, but hidden_size 64 is not a multiple",
    ),
    "another layer": (architecture(num_layers=3), "2 attention nodes, but the manifest has 3 layers"),
    "another kind": (
        manifest(lambda data: with_one_golden(data).update(kind="nlu", slot_labels=["O"])),
        "input 'position_ids' is not expected for kind nlu",
    ),
    "no labels": (
        manifest(lambda data: with_one_golden(data).update(kind="classifier")),
        "labels: none, but the kind classifier needs them",
    ),
    "labels twice": (
        manifest(lambda data: data.update(labels=["a", "a"])),
        "labels: 2, but they are at most",
    ),
    "problem type": (
        manifest(lambda data: data.update(problem_type="sort")),
        "problem_type: 'sort' is not one",
    ),
    "long name": (manifest(lambda data: data.update(name="x" * 1001)), "name: a text of 1001 characters"),
    "long label": (
        manifest(lambda data: data.update(labels=["x" * 1002])),
        "labels: a text of 1002 characters",
    ),
    "no prompts": (
        manifest(lambda data: multiply_golden(data, 0)),
        "golden: none, but a server proves a build by them, and probes it: export the model again",
    ),
    "many prompts": (manifest(lambda data: multiply_golden(data, 5)), "golden: 20 prompts, but at most 16"),
    "answers of two lengths": (
        manifest(lambda data: shorten_golden(data, slice(1))),
        "variants.fp32.golden: answers of '[1, 8]' tokens",
    ),
    "answer that is no token": (
        manifest(lambda data: data["variants"]["fp32"]["golden"][0]["token_ids"].__setitem__(0, 300)),
        "variants.fp32.golden: 300 is no token of 300",
    ),
    "graph missing": (lambda folder: (folder / GRAPH).unlink(), "fp32/model.onnx: missing"),
    "graph a link": (linked(GRAPH), "fp32/model.onnx: a link, but an artifact has none"),
    "variant a link": (linked("fp32"), "fp32: a link, but an artifact has none"),
    "variant a file": (file_in_place, "int8/model.onnx: missing"),
    "manifest a link": (linked("manifest.json"), "manifest.json: a link, but an artifact has none"),
    "tokenizer a link": (linked("tokenizer.json"), "tokenizer.json: a link, but an artifact has none"),
    "graph a folder": (folder_in_place, "fp32/model.onnx: a folder, but a plain file is needed"),
}
