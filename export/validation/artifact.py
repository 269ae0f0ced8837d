"""Import of a ready-made artifact: it is validated, copied, and run once before it is used.

Nothing of it is loaded before its manifest, its files and its graphs passed as what this exporter writes
(`graph`); then it must give the answers that its manifest promises (`dry_run`).
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from export.checkpoint.chat import SPECIAL_TOKENS
from export.checkpoint.config import (
    MAX_CONTEXT_LENGTH,
    MAX_HEADS,
    MAX_HIDDEN_SIZE,
    MAX_LAYERS,
    MAX_TRANSITION_LABELS,
    MAX_VOCAB_SIZE,
    PROBLEM_TYPES,
    cache_head_size,
)
from export.checkpoint.config_reader import MAX_LABEL_LENGTH, MAX_LABELS
from export.checkpoint.tokenizer import open_tokenizer
from export.errors import ArtifactError, CheckpointError
from export.files import check_content, check_size, refuse_link
from export.graph.builder import DATA_SUFFIX
from export.output import new_folder
from export.progress import Report, Stages, ignore
from export.reading import is_there, parse_json_object, read_text
from export.validation.dry_run import dry_run
from export.validation.graph import check_graph
from runtime.calibration import CALIBRATION_FILE, Calibration, CalibrationError
from runtime.contract import GRAPH_FILE, TOKENIZER_FILE, Kind, Variant, shown
from runtime.manifest import (
    CHAT_TEMPLATE,
    MANIFEST_FILE,
    MAX_CHAT_TEMPLATE,
    Architecture,
    FileEntry,
    Manifest,
    ManifestError,
)

# A server allocates its cache and its tables by these numbers before it runs the graph.
_LIMITS = {
    "num_layers": MAX_LAYERS,
    "num_heads": MAX_HEADS,
    "head_size": MAX_HIDDEN_SIZE,
    "hidden_size": MAX_HIDDEN_SIZE,
    "vocab_size": MAX_VOCAB_SIZE,
    "context_length": MAX_CONTEXT_LENGTH,
}
MAX_GOLDEN_PROMPTS = 16
MAX_GOLDEN_TOKENS = 64  # of one answer
MAX_GOLDEN_LENGTH = 100_000  # characters of one prompt
MAX_NOTE_LENGTH = 1000  # characters of the name, and of each note of provenance


def import_artifact(
    source: Path,
    output: Path,
    *,
    name: str | None = None,
    overwrite: bool = False,
    report: Report = ignore,
) -> Manifest:
    """Validate the artifact folder `source` and copy what its manifest lists to `output`; raises ExportError.

    The copy has the name `name`. Its cards are taken from its maker; only the golden answers are checked.
    """
    stages = Stages(["check manifest", "copy", "check graphs", "dry run"], report)
    stages.begin("check manifest")
    manifest = _read_manifest(source)
    for file in manifest.files:
        check_size(source, file)
    with new_folder(output, overwrite=overwrite) as folder:
        # The copy cannot be changed from outside while it is checked.
        stages.begin("copy")
        for file in manifest.files:
            _copy(source, folder, file)
        provenance = manifest.provenance | {"card": "as its maker declared it"}
        manifest = dataclasses.replace(manifest, name=name or manifest.name, provenance=provenance)
        (folder / MANIFEST_FILE).write_text(manifest.to_json(), "utf-8")
        _copy_calibration(source, folder)
        stages.begin("check graphs")
        _check_tokenizer(folder, manifest)
        for variant in manifest.variants:
            check_graph(folder, variant, manifest)
        stages.begin("dry run")
        for number, variant in enumerate(manifest.variants, start=1):
            dry_run(folder, variant, manifest)
            stages.step(number / len(manifest.variants))
    stages.end()
    return manifest


def _read_manifest(source: Path) -> Manifest:
    refuse_link(source, MANIFEST_FILE)
    try:
        text = read_text(source / MANIFEST_FILE)
        # The contract's reader accepts any JSON; this one is strict.
        parse_json_object(text.encode(), MANIFEST_FILE)
        manifest = Manifest.from_json(text)
    except CheckpointError as error:
        raise ArtifactError(error.message, error.field) from None
    except ManifestError as error:
        raise ArtifactError(" ".join(str(error).split())[:300], field=MANIFEST_FILE) from None
    if manifest.tokenizer.path != TOKENIZER_FILE:
        raise _wrong("tokenizer.path", f"{shown(manifest.tokenizer.path)}, but it must be {TOKENIZER_FILE}")
    _check_architecture(manifest.architecture)
    _check_texts(manifest)
    if not manifest.variants:
        raise _wrong("variants", "none")
    for variant in manifest.variants:
        _check_variant(manifest, variant)
    return manifest


def _check_architecture(architecture: Architecture) -> None:
    for name, most in _LIMITS.items():
        value = getattr(architecture, name)
        if not 1 <= value <= most:
            raise _wrong(f"architecture.{name}", f"{value}, but it goes from 1 to {most}")
    tokens = [(name, getattr(architecture, name)) for name in ("eos_token_id", "pad_token_id")]
    for name, value in (
        *tokens,
        *(("more_eos_token_ids", token) for token in architecture.more_eos_token_ids),
    ):
        if value is not None and not 0 <= value < architecture.vocab_size:
            raise _wrong(f"architecture.{name}", f"{value} is no token of {architecture.vocab_size}")
    hidden, heads = architecture.hidden_size, architecture.num_heads
    if hidden % heads:
        raise _wrong("architecture.num_heads", f"{heads}, but hidden_size {hidden} is not a multiple of it")
    if architecture.head_size != cache_head_size(hidden // heads):
        wanted = (
            f"{cache_head_size(hidden // heads)} is needed for hidden_size {hidden} and num_heads {heads}"
        )
        raise _wrong("architecture.head_size", f"{architecture.head_size}, but {wanted}")
    if architecture.layer_heads:
        _check_layer_heads(architecture)


def _check_layer_heads(architecture: Architecture) -> None:
    layers, given = architecture.num_layers, architecture.layer_heads
    if len(given) != layers:
        raise _wrong("architecture.layer_heads", f"{len(given)} numbers, but there are {layers} layers")
    most = architecture.num_heads
    for value in given:
        if not 1 <= value <= most:
            raise _wrong("architecture.layer_heads", f"{value}, but it goes from 1 to num_heads {most}")


def _check_texts(manifest: Manifest) -> None:
    """Check that the labels of the kind are there, and the length of every text."""
    kind = manifest.kind
    for name, labels, needed in (
        ("labels", manifest.labels, kind is Kind.CLASSIFIER),
        ("slot_labels", manifest.slot_labels, kind is Kind.NLU),
    ):
        if needed and not labels:
            raise _wrong(name, f"none, but the kind {kind.value} needs them")
        if len(labels) > MAX_LABELS or len(set(labels)) != len(labels):
            raise _wrong(name, f"{len(labels)}, but they are at most {MAX_LABELS}, and each only once")
    if manifest.slot_transitions and not (
        kind is Kind.NLU and manifest.labels and len(manifest.slot_labels) <= MAX_TRANSITION_LABELS
    ):
        raise _wrong(
            "slot_transitions",
            f"only a model of intents and at most {MAX_TRANSITION_LABELS} slot labels has them",
        )
    if manifest.nlu_echo and manifest.architecture.eos_token_id is None:
        raise _wrong(
            "architecture.eos_token_id", "none, but nlu_echo needs it between the two copies of a text"
        )
    if manifest.problem_type not in PROBLEM_TYPES:
        raise _wrong(
            "problem_type", f"{shown(manifest.problem_type)} is not one of {', '.join(PROBLEM_TYPES)}"
        )
    golden = [text for prompt in manifest.golden for text in (prompt.text, prompt.text_pair or "")]
    notes = [*manifest.provenance, *manifest.provenance.values()]
    for name, texts, most in (
        ("name", [manifest.name], MAX_NOTE_LENGTH),
        ("labels", [*manifest.labels, *manifest.slot_labels], MAX_LABEL_LENGTH),
        ("provenance", notes, MAX_NOTE_LENGTH),
        ("golden", golden, MAX_GOLDEN_LENGTH),
        ("chat", [*manifest.chat, *manifest.chat.values()], MAX_CHAT_TEMPLATE),
    ):
        longest = max(map(len, texts), default=0)
        if longest > most:
            raise _wrong(name, f"a text of {longest} characters, but at most {most} are read")
    if unknown := manifest.chat.keys() - {CHAT_TEMPLATE, *SPECIAL_TOKENS}:
        raise _wrong(
            "chat", f"{shown(min(unknown))} is not one of {CHAT_TEMPLATE}, {', '.join(SPECIAL_TOKENS)}"
        )
    if not manifest.golden:
        raise _wrong(
            "golden", "none, but a server proves a build by them, and probes it: export the model again"
        )
    if len(manifest.golden) > MAX_GOLDEN_PROMPTS:
        raise _wrong("golden", f"{len(manifest.golden)} prompts, but at most {MAX_GOLDEN_PROMPTS} are read")


def _check_variant(manifest: Manifest, variant: Variant) -> None:
    entry, where = manifest.variants[variant], f"variants.{variant.value}"
    allowed = [f"{variant.value}/{GRAPH_FILE}", f"{variant.value}/{GRAPH_FILE}{DATA_SUFFIX}"]
    paths = [file.path for file in entry.files]
    if paths not in (allowed[:1], allowed):
        raise _wrong(f"{where}.files", f"{shown(str(paths))}, but they must be {allowed[0]} and its data")
    if manifest.kind is not Kind.LM:
        return
    counts = {len(answer.token_ids) for answer in entry.golden}
    if len(counts) > 1 or max(counts) > MAX_GOLDEN_TOKENS:
        raise _wrong(
            f"{where}.golden",
            f"answers of {shown(str(sorted(counts)))} tokens, but all have one length, and at most"
            f" {MAX_GOLDEN_TOKENS}",
        )
    for token in (token for answer in entry.golden for token in answer.token_ids):
        if not 0 <= token < manifest.architecture.vocab_size:
            raise _wrong(f"{where}.golden", f"{token} is no token of {manifest.architecture.vocab_size}")


def _copy(source: Path, folder: Path, expected: FileEntry) -> None:
    target = folder / expected.path
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source / expected.path, target)
    check_content(folder, expected)


def _copy_calibration(source: Path, folder: Path) -> None:
    """What corrects the scores, where the artifact brings it."""
    if not is_there(source / CALIBRATION_FILE):
        return
    refuse_link(source, CALIBRATION_FILE)
    try:
        calibration = Calibration.from_json(read_text(source / CALIBRATION_FILE))
    except CalibrationError as error:
        raise ArtifactError(f"{CALIBRATION_FILE}: {error}", field=CALIBRATION_FILE) from None
    except CheckpointError as error:
        raise ArtifactError(error.message, error.field) from None
    (folder / CALIBRATION_FILE).write_text(calibration.to_json(), "utf-8")


def _check_tokenizer(folder: Path, manifest: Manifest) -> None:
    try:
        open_tokenizer(folder / TOKENIZER_FILE, manifest.architecture.vocab_size, manifest.kind)
    except CheckpointError as error:
        raise ArtifactError(error.message, error.field) from None


def _wrong(field: str, problem: str) -> ArtifactError:
    return ArtifactError(f"{MANIFEST_FILE}: {field}: {problem}", field=field)
