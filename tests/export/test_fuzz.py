"""Anything at all, and sound files with damage, end in the readers' own errors and in nothing else."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from export.archive import unpack_archive, validate_archive
from export.checkpoint.config import read_config
from export.checkpoint.tensors import TensorFile, TensorStore
from export.checkpoint.tokenizer import open_tokenizer
from export.errors import ArchiveError, ArtifactError, CheckpointError
from export.members import ArchiveLimits
from export.reading import MAX_DIGITS
from export.validation.artifact import import_artifact
from export.validation.dry_run import dry_run
from export.validation.graph import MICROSOFT_OPERATORS, STANDARD_OPERATORS, check_graph
from runtime.contract import Kind, Variant
from runtime.manifest import Manifest, ManifestError
from tests.export.archives import SOUND, tar_of, zip_of
from tests.export.checkpoints import VOCABULARY, tiny_tokenizer
from tests.export.edits import GRAPH, with_one_golden

LIMITS = ArchiveLimits(max_members=20, max_unpacked_bytes=100_000, max_depth=4)
HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "F16", "shape": [4], "data_offsets": [16, 24]},
    "c": {"dtype": "BF16", "shape": [0, 3], "data_offsets": [24, 24]},
}

_any_text = st.text(st.characters(exclude_categories=()), max_size=12)
_numbers = st.integers(-3, 400) | st.integers() | st.sampled_from([2**31, 2**48, 2**63, 10**MAX_DIGITS - 1])
_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _numbers | st.floats() | _any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_any_text, inner, max_size=3),
    max_leaves=8,
)


def examples(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@st.composite
def damaged_json(draw: st.DrawFn, sound: Any) -> Any:
    """One to three places of `sound` hold something else, or nothing."""
    value = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        value = _damage(draw, value)
    return value


def _damage(draw: st.DrawFn, value: Any) -> Any:
    keys: list[Any] = []
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if not keys or draw(_one_in(40)):
        return draw(_numbers | _values if isinstance(value, int) else _values)
    key = draw(st.sampled_from(keys))
    if not draw(_one_in(8)):
        value[key] = _damage(draw, value[key])
    elif draw(st.booleans()):
        del value[key]
    elif isinstance(value, dict):
        value[draw(_any_text)] = value.pop(key)
    else:
        value.append(value[key])
    return value


def _one_in(count: int) -> st.SearchStrategy[bool]:
    return st.integers(1, count).map(lambda number: number == count)


@st.composite
def damaged_graph(draw: st.DrawFn, sound: onnx.ModelProto) -> onnx.ModelProto:
    """Fields and list entries of one to three messages hold something else, or are gone, or there twice."""
    model = onnx.ModelProto()
    model.CopyFrom(sound)
    names = [*STANDARD_OPERATORS, *MICROSOFT_OPERATORS, *(tensor.name for tensor in model.graph.initializer)]
    for _ in range(draw(st.integers(1, 3))):
        _damage_message(draw, model.graph, names)
    return model


def _damage_message(draw: st.DrawFn, message: Message, names: list[str]) -> None:
    fields = message.ListFields()
    if not fields:
        return
    field, value = draw(st.sampled_from(fields))
    if field.message_type is not None and not draw(_one_in(8)):
        _damage_message(draw, draw(st.sampled_from(value)) if field.is_repeated else value, names)
    elif draw(_one_in(4)):
        message.ClearField(field.name)
    elif field.is_repeated and draw(st.booleans()):
        value.append(draw(st.sampled_from(value)))
    elif field.is_repeated:
        del value[draw(st.integers(0, len(value) - 1))]
    elif field.message_type is None:
        with contextlib.suppress(ValueError):  # an enumeration takes few numbers
            setattr(message, field.name, draw(_scalar(value, names)))


def _scalar(value: object, names: list[str]) -> st.SearchStrategy[Any]:
    if isinstance(value, bytes):
        return st.binary(max_size=300)
    if isinstance(value, str):
        return st.sampled_from(names) | st.text(max_size=5)
    if isinstance(value, int):
        return st.integers(-2, 70) | st.sampled_from([2**31 - 1, -(2**31)])
    return st.floats(width=32)


@st.composite
def damaged_bytes(draw: st.DrawFn, sound: bytes) -> bytes:
    """Bytes that are changed, cut out, or put in, and the end lost."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 6))):
        place, length = draw(st.integers(0, max(0, len(data) - 1))), draw(st.integers(0, 8))
        data[place : place + length] = draw(st.binary(max_size=8))
    return bytes(data[: draw(st.integers(0, len(data)))] if not draw(st.integers(0, 3)) else data)


def packed(header: bytes, data: bytes = bytes(24)) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def read_weights(folder: Path, data: bytes) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    with contextlib.suppress(CheckpointError):
        file = TensorFile(path)
        for name in file.entries:
            with contextlib.suppress(CheckpointError):
                assert file.read(name).shape == file.entries[name].shape


@examples(200)
@given(data=st.binary(max_size=200) | damaged_bytes(packed(json.dumps(HEADER).encode())))
def test_weights_of_any_bytes(data: bytes, tmp_path: Path) -> None:
    read_weights(tmp_path, data)


@examples(200)
@given(header=_values | damaged_json(HEADER), size=st.integers(0, 40))
def test_weights_of_any_header(header: object, size: int, tmp_path: Path) -> None:
    read_weights(tmp_path, packed(json.dumps(header).encode(), b"\x7f\xc0" * size))


@examples(100)
@given(index=_values | damaged_json({"weight_map": {"a": "a.safetensors", "b": "a.safetensors"}}))
def test_any_index(index: object, tmp_path: Path) -> None:
    header = {name: HEADER[name] for name in ("a", "b")}
    (tmp_path / "a.safetensors").write_bytes(packed(json.dumps(header).encode()))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    with contextlib.suppress(CheckpointError):
        TensorStore.open(tmp_path)


@pytest.fixture(scope="module")
def configs(checkpoint: Callable[[str], Path]) -> dict[str, dict[str, Any]]:
    kinds = ("lm", "classifier", "nlu")
    return {kind: json.loads((checkpoint(kind) / "config.json").read_text("utf-8")) for kind in kinds}


@examples(200)
@given(data=st.data(), kind=st.sampled_from(["lm", "classifier", "nlu"]))
def test_any_config(
    data: st.DataObject, kind: str, configs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    changed = data.draw(damaged_json(configs[kind]))
    (tmp_path / "config.json").write_text(json.dumps(changed), "utf-8")
    with contextlib.suppress(CheckpointError):
        read_config(tmp_path)


@examples(100)
@given(data=st.data())
def test_config_of_any_bytes(data: st.DataObject, configs: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    sound = json.dumps(configs["lm"]).encode()
    (tmp_path / "config.json").write_bytes(data.draw(st.binary(max_size=200) | damaged_bytes(sound)))
    with contextlib.suppress(CheckpointError):
        read_config(tmp_path)


_tokenizer = json.loads(tiny_tokenizer().to_str())
_tokenizer["model"] |= {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
_tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
_tokenizer["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}


@examples(150)
@given(description=damaged_json(_tokenizer))
def test_any_tokenizer(description: object, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(description), "utf-8")
    with contextlib.suppress(CheckpointError):
        found: Tokenizer = open_tokenizer(path, VOCABULARY, Kind.LM)
        found.decode(found.encode("ab, and \0 what not").ids)


@pytest.fixture(scope="module")
def small_artifact(artifact: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only fp32, and with one golden prompt: what is sound runs soon."""
    folder = tmp_path_factory.mktemp("fuzz") / "artifact"
    shutil.copytree(artifact("lm"), folder)
    data = json.loads((folder / "manifest.json").read_text("utf-8"))
    data["variants"] = {"fp32": data["variants"]["fp32"]}
    (folder / "manifest.json").write_text(json.dumps(with_one_golden(data)), "utf-8")
    import_artifact(folder, folder.with_name("sound"))
    return folder


@examples(200)
@given(data=st.data())
def test_any_manifest(data: st.DataObject, artifact: Callable[[str], Path]) -> None:
    text = (artifact("lm") / "manifest.json").read_text("utf-8")
    changed = data.draw(_values.map(json.dumps) | damaged_json(json.loads(text)).map(json.dumps))
    with contextlib.suppress(ManifestError):
        manifest = Manifest.from_json(changed)
        assert Manifest.from_json(manifest.to_json()).to_json() == manifest.to_json()


@examples(60)
@given(data=st.data())
def test_artifacts_of_any_manifest(data: st.DataObject, small_artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    if not folder.exists():
        shutil.copytree(small_artifact, folder)
    sound = json.loads((small_artifact / "manifest.json").read_text("utf-8"))
    (folder / "manifest.json").write_text(json.dumps(data.draw(damaged_json(sound))), "utf-8")
    with contextlib.suppress(ArtifactError):
        import_artifact(folder, tmp_path / "out", overwrite=True)
        assert json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))


@examples(60)
@given(data=st.data())
def test_graph_of_any_bytes(data: st.DataObject, small_artifact: Path, tmp_path: Path) -> None:
    sound = (small_artifact / GRAPH).read_bytes()
    # The weights are most of it, and say nothing to a reader: the damage is to the names and nodes before.
    nodes = sound.index(b"wte.weight")
    vet_graph(data.draw(damaged_bytes(sound[:nodes])) + sound[nodes:], small_artifact, tmp_path)


@examples(100)
@given(data=st.data())
def test_any_graph(data: st.DataObject, small_artifact: Path, tmp_path: Path) -> None:
    changed = data.draw(damaged_graph(onnx.load(small_artifact / GRAPH)))
    if vet_graph(changed.SerializeToString(), small_artifact, tmp_path):
        with contextlib.suppress(ArtifactError):
            dry_run(tmp_path, Variant.FP32, Manifest.load(tmp_path))


def vet_graph(graph: bytes, artifact: Path, folder: Path) -> bool:
    """Whether it passes, as the graph of a copy of `artifact` in `folder`."""
    manifest = json.loads((artifact / "manifest.json").read_text("utf-8"))
    manifest["variants"]["fp32"]["files"][0]["size"] = len(graph)
    shutil.copytree(artifact, folder, dirs_exist_ok=True)
    (folder / GRAPH).write_bytes(graph)
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    try:
        check_graph(folder, Variant.FP32, Manifest.load(folder))
    except ArtifactError:
        return False
    return True


@examples(400)
@given(
    data=st.sampled_from([tar_of(SOUND, mode="w"), tar_of(SOUND), zip_of(SOUND)]).flatmap(damaged_bytes)
    | st.tuples(
        st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08"]), st.binary(max_size=600)
    ).map(b"".join)
)
def test_any_archive(data: bytes, tmp_path: Path) -> None:
    unpack(data, tmp_path)


def unpack(data: bytes, folder: Path) -> None:
    path, into = folder / "upload", folder / "sub" / "into"
    path.write_bytes(data)
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    with contextlib.suppress(ArchiveError):
        validate_archive(path, LIMITS)
    with contextlib.suppress(ArchiveError):
        assert unpack_archive(path, into, LIMITS).is_relative_to(into)
    outside = sorted(path.name for path in folder.rglob("*") if into not in path.parents)
    assert outside == ["into", "sub", "upload"]
    assert not any(path.is_symlink() for path in into.rglob("*"))


_names = st.lists(
    st.sampled_from(["..", ".", "", "m", "config.json", "/", "C:", "\\", "~", "é", "a\0b", "x" * 256]),
    max_size=5,
)


@examples(100)
@given(
    names=st.lists(_names.map("/".join), max_size=4, unique=True), packer=st.sampled_from([tar_of, zip_of])
)
def test_any_names(names: list[str], packer: Callable[[dict[str, bytes]], bytes], tmp_path: Path) -> None:
    # Some names the packer itself refuses, or writes twice.
    with contextlib.suppress(ValueError, IndexError, UserWarning):
        unpack(packer(dict.fromkeys(names, b"{}")), tmp_path)
