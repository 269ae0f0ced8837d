"""The content of an artifact, and whether its files match its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from export.errors import ArtifactError
from export.files import check_content, check_size
from export.inspection.sizes import cache_sizes
from export.reading import read_text
from runtime.contract import Kind
from runtime.manifest import MANIFEST_FILE, Architecture, FileEntry, Manifest, ManifestError


@dataclass(frozen=True, slots=True)
class VariantFacts:
    size: int  # bytes
    files: tuple[FileEntry, ...]
    load_seconds: float
    quality: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class ArtifactFacts:
    what: ClassVar[str] = "artifact"

    name: str
    model: str  # its name in the manifest
    kind: str
    architecture: Architecture
    labels: tuple[str, ...]
    slot_labels: tuple[str, ...]
    problem_type: str
    nlu_echo: bool
    variants: dict[str, VariantFacts]
    golden_prompts: int
    cache_sizes: dict[str, int]  # bytes for each token, by variant; only a language model has a cache
    provenance: dict[str, str]
    tokenizer: FileEntry
    problems: tuple[str, ...]  # files that differ from the manifest


def inspect_artifact(folder: Path, name: str) -> ArtifactFacts:
    """Read the manifest and every file that it lists; raises ExportError without a valid manifest."""
    try:
        manifest = Manifest.from_json(read_text(folder / MANIFEST_FILE))
    except ManifestError as error:
        raise ArtifactError(str(error), field=MANIFEST_FILE) from None
    shape, cache = manifest.architecture, {}
    if manifest.kind is Kind.LM:
        cache = cache_sizes(shape.heads, shape.head_size)
    return ArtifactFacts(
        name=name,
        model=manifest.name,
        kind=manifest.kind.value,
        architecture=shape,
        labels=manifest.labels,
        slot_labels=manifest.slot_labels,
        problem_type=manifest.problem_type,
        nlu_echo=manifest.nlu_echo,
        variants={
            variant.value: VariantFacts(entry.size, entry.files, entry.load_seconds, entry.quality)
            for variant, entry in manifest.variants.items()
        },
        golden_prompts=len(manifest.golden),
        cache_sizes={variant.value: cache[variant] for variant in manifest.variants if variant in cache},
        provenance=manifest.provenance,
        tokenizer=manifest.tokenizer,
        problems=tuple(problem for file in manifest.files if (problem := _problem(folder, file)) is not None),
    )


def _problem(folder: Path, expected: FileEntry) -> str | None:
    try:
        check_size(folder, expected)
        check_content(folder, expected)
    except ArtifactError as error:
        return error.message
    return None
