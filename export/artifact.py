"""A ready-made artifact: checked against its manifest and against what this exporter writes, then copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from tokenizers import Tokenizer

from export.config import MAX_CONTEXT_LENGTH, MAX_HEADS, MAX_HIDDEN_SIZE, MAX_LAYERS, MAX_VOCAB_SIZE
from export.errors import ArtifactError
from export.files import file_entry
from export.graph.builder import DATA_SUFFIX, MICROSOFT
from export.output import new_folder
from export.progress import Report, Stages, ignore
from runtime.contract import (
    GRAPH_FILE,
    MANIFEST_FILE,
    TOKENIZER_FILE,
    Architecture,
    FileEntry,
    HeadGraph,
    Kind,
    LmGraph,
    Manifest,
    ManifestError,
)

# What the exporter emits, and so all that a server ever has to run. A test keeps the lists equal.
STANDARD_OPERATORS = frozenset(
    {
        *("Abs", "Add", "Cast", "Concat", "ConstantOfShape", "DequantizeLinear", "Expand", "Gather", "Gemm"),
        *("MatMul", "Mul", "QuantizeLinear", "Range", "ReduceMax", "Relu", "Reshape", "Shape", "Squeeze"),
        *("Sub", "Transpose", "Unsqueeze"),
    }
)
MICROSOFT_OPERATORS = frozenset(
    (
        "BiasGelu",
        "FastGelu",
        "GroupQueryAttention",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "SkipLayerNormalization",
    )
)
_OPERATORS = {"": STANDARD_OPERATORS, "ai.onnx": STANDARD_OPERATORS, MICROSOFT: MICROSOFT_OPERATORS}


# A server sizes its cache and its tables by these before it has run the graph once.
_LIMITS = {
    "num_layers": MAX_LAYERS,
    "num_heads": MAX_HEADS,
    "head_size": MAX_HIDDEN_SIZE,
    "hidden_size": MAX_HIDDEN_SIZE,
    "vocab_size": MAX_VOCAB_SIZE,
    "context_length": MAX_CONTEXT_LENGTH,
}


def import_artifact(
    source: Path, output: Path, *, overwrite: bool = False, report: Report = ignore
) -> Manifest:
    """Check the artifact folder `source` and copy what its manifest lists to `output`; raises ExportError."""
    stages = Stages(["check manifest", "check graphs", "copy"], report)
    stages.begin("check manifest")
    manifest = _read_manifest(source)
    files = [manifest.tokenizer, *(file for entry in manifest.variants.values() for file in entry.files)]
    for file in files:
        _check_file(source, file)
    _check_tokenizer(source, manifest.architecture)
    stages.begin("check graphs")
    for entry in manifest.variants.values():
        _check_graph(source, entry.files, manifest)
    stages.begin("copy")
    with new_folder(output, overwrite=overwrite) as folder:
        for file in files:
            target = folder / file.path
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source / file.path, target)
        (folder / MANIFEST_FILE).write_text(manifest.to_json(), "utf-8")
    stages.end()
    return manifest


def _read_manifest(source: Path) -> Manifest:
    try:
        manifest = Manifest.load(source)
    except ManifestError as error:
        raise ArtifactError(str(error), field=MANIFEST_FILE) from None
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{MANIFEST_FILE}: not UTF-8 ({error.reason})", field=MANIFEST_FILE) from None
    if manifest.tokenizer.path != TOKENIZER_FILE:
        raise _wrong("tokenizer.path", f"{manifest.tokenizer.path!r}, but it must be {TOKENIZER_FILE}")
    _check_architecture(manifest.architecture)
    if not manifest.variants:
        raise _wrong("variants", "none")
    for variant, entry in manifest.variants.items():
        allowed = [f"{variant.value}/{GRAPH_FILE}", f"{variant.value}/{GRAPH_FILE}{DATA_SUFFIX}"]
        paths = [file.path for file in entry.files]
        if paths not in (allowed[:1], allowed):
            raise _wrong(
                f"variants.{variant.value}.files", f"{paths}, but they must be {allowed[0]} and its data"
            )
    return manifest


def _check_architecture(architecture: Architecture) -> None:
    for name, most in _LIMITS.items():
        value = getattr(architecture, name)
        if not 1 <= value <= most:
            raise _wrong(f"architecture.{name}", f"{value}, but it goes from 1 to {most}")
    for name in ("eos_token_id", "pad_token_id"):
        value = getattr(architecture, name)
        if not 0 <= value < architecture.vocab_size:
            raise _wrong(f"architecture.{name}", f"{value} is no token of {architecture.vocab_size}")


def _check_file(source: Path, expected: FileEntry) -> None:
    path = source / expected.path
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
        raise ArtifactError(f"{expected.path}: missing, or no plain file", field=expected.path)
    found = file_entry(source, path)
    for what, wanted, actual in (
        ("size", expected.size, found.size),
        ("sha256", expected.sha256, found.sha256),
    ):
        if wanted != actual:
            raise ArtifactError(
                f"{expected.path}: {what} is {actual}, but the manifest says {wanted}", field=expected.path
            )


def _check_tokenizer(source: Path, architecture: Architecture) -> None:
    try:
        vocabulary = Tokenizer.from_file(str(source / TOKENIZER_FILE)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises bare Exception
        raise ArtifactError(f"{TOKENIZER_FILE}: {error}", field=TOKENIZER_FILE) from None
    if max(vocabulary.values(), default=0) >= architecture.vocab_size:
        raise _wrong(
            "architecture.vocab_size", f"{architecture.vocab_size}, but the tokenizer has larger ids"
        )


def _check_graph(source: Path, files: tuple[FileEntry, ...], manifest: Manifest) -> None:
    path = files[0].path
    try:
        model = onnx.load(str(source / path), load_external_data=False)
    except DecodeError:
        raise ArtifactError(f"{path}: not an ONNX model", field=path) from None
    if model.functions or model.graph.sparse_initializer or model.training_info:
        raise ArtifactError(f"{path}: functions, sparse weights or training data in the model", field=path)
    for node in model.graph.node:
        if node.op_type not in _OPERATORS.get(node.domain, frozenset()):
            operator = f"{node.domain or 'ai.onnx'}::{node.op_type}"
            raise ArtifactError(f"{path}: node {node.name!r}: operator {operator} is not allowed", field=path)
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ArtifactError(f"{path}: node {node.name!r}: carries a graph of its own", field=path)
    for tensor in model.graph.initializer:
        _check_external(path, tensor, files[1:])
    _check_names(path, model.graph, manifest)
    if manifest.kind is Kind.LM:
        _check_sizes(path, model.graph, manifest.architecture)
    try:
        onnx.checker.check_model(str(source / path))
    except (onnx.checker.ValidationError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(f"{path}: onnx.checker: {reason[:200]}", field=path) from None


def _check_external(path: str, tensor: onnx.TensorProto, data: tuple[FileEntry, ...]) -> None:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    values = {item.key: item.value for item in tensor.external_data}
    location, offset, length = (values.get(key, "0") for key in ("location", "offset", "length"))
    if location != GRAPH_FILE + DATA_SUFFIX or not data:
        raise ArtifactError(f"{path}: tensor {tensor.name!r}: external data in {location[:80]!r}", field=path)
    if not (offset.isascii() and offset.isdigit() and length.isascii() and length.isdigit()):
        raise ArtifactError(f"{path}: tensor {tensor.name!r}: offset or length is no number", field=path)
    if int(offset) + int(length) > data[0].size:
        raise ArtifactError(f"{path}: tensor {tensor.name!r}: external data beyond the file", field=path)


def _check_names(path: str, graph: onnx.GraphProto, manifest: Manifest) -> None:
    expected = _expected_names(manifest)
    found = {item.name for item in graph.input}, {item.name for item in graph.output}
    for what, wanted, actual in zip(("input", "output"), expected, found, strict=True):
        if wanted != actual:
            name = sorted(wanted ^ actual)[0]
            problem = "missing" if name in wanted else "not expected"
            raise ArtifactError(
                f"{path}: {what} {name[:80]!r} is {problem} for kind {manifest.kind.value}", field=path
            )


def _check_sizes(path: str, graph: onnx.GraphProto, architecture: Architecture) -> None:
    """The sizes that the graph of a language model declares are those of the manifest."""
    expected = {
        LmGraph.LOGITS: {1: architecture.vocab_size},
        LmGraph.HIDDEN: {1: architecture.hidden_size},
    }
    cache = {1: architecture.num_heads, 3: architecture.head_size}
    for layer in range(architecture.num_layers):
        expected |= {LmGraph.past_key(layer): cache, LmGraph.past_value(layer): cache}
    for value in (*graph.input, *graph.output):
        found = [item.dim_value for item in value.type.tensor_type.shape.dim]
        for axis, size in expected.get(value.name, {}).items():
            if len(found) <= axis or found[axis] != size:
                raise ArtifactError(
                    f"{path}: {value.name} has the shape {found}, but the manifest wants {size} at {axis}",
                    field=path,
                )


def _expected_names(manifest: Manifest) -> tuple[set[str], set[str]]:
    if manifest.kind is not Kind.LM:
        outputs = {HeadGraph.LOGITS} | ({HeadGraph.SLOT_LOGITS} if manifest.kind is Kind.NLU else set())
        return {HeadGraph.INPUT_IDS, HeadGraph.LENGTHS}, outputs
    inputs = {LmGraph.INPUT_IDS, LmGraph.POSITION_IDS, LmGraph.SEQLENS_K}
    inputs |= {LmGraph.TOTAL_SEQUENCE_LENGTH, LmGraph.LOGIT_ROWS}
    outputs = {LmGraph.LOGITS, LmGraph.HIDDEN}
    for layer in range(manifest.architecture.num_layers):
        inputs |= {LmGraph.past_key(layer), LmGraph.past_value(layer)}
        outputs |= {LmGraph.present_key(layer), LmGraph.present_value(layer)}
    return inputs, outputs


def _wrong(field: str, problem: str) -> ArtifactError:
    return ArtifactError(f"{MANIFEST_FILE}: {field}: {problem}", field=field)
