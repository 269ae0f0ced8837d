"""From a checkpoint folder to a finished artifact: graphs, golden prompts, quality cards, manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import onnxruntime

from export.checkpoint import Checkpoint
from export.errors import ExportError
from export.files import file_entry
from export.graph.body import cache_head_size
from export.graph.build import write_graph
from export.output import new_folder
from export.progress import Progress
from export.quality import head_card, language_card
from export.reference import HeadReference, LanguageReference
from export.session import HeadSession
from export.tokenizer import write_tokenizer
from runtime.contract import (
    GRAPH_FILE,
    MANIFEST_FILE,
    TOKENIZER_FILE,
    Architecture,
    GoldenPrompt,
    Kind,
    Manifest,
    Variant,
    VariantEntry,
)

SUPPORTED_VARIANTS = (Variant.FP32, Variant.INT8)


def _ignore(progress: Progress) -> None:
    """The caller does not want to know."""


def export_checkpoint(
    source: Path,
    output: Path,
    *,
    name: str,
    variants: Sequence[Variant],
    overwrite: bool = False,
    progress: Callable[[Progress], None] = _ignore,
) -> Manifest:
    """Export the Hugging Face folder `source` into the new folder `output`; raises ExportError.

    The artifact is written beside `output` and renamed at the end, so that nobody sees half of one.
    """
    check_variants(variants)
    stages = ["read", *[f"build {variant.value}" for variant in variants], "golden", "quality", "finish"]
    counter = iter(range(len(stages)))

    def begin(stage: str) -> None:
        progress(Progress(stage, next(counter), len(stages)))

    begin("read")
    checkpoint = Checkpoint.open(source)
    with new_folder(output, overwrite=overwrite) as folder:
        manifest = _write(checkpoint, folder, name, variants, begin)
    progress(Progress("done", len(stages), len(stages)))
    return manifest


def check_variants(variants: Sequence[Variant]) -> None:
    if not variants or len(set(variants)) != len(variants):
        raise ExportError("variants: at least one is needed, and each only once", field="variants")
    for variant in variants:
        if variant not in SUPPORTED_VARIANTS:
            choices = ", ".join(item.value for item in SUPPORTED_VARIANTS)
            raise ExportError(f"variants: {variant.value} is not one of {choices}", field="variants")


def architecture_of(checkpoint: Checkpoint) -> Architecture:
    config = checkpoint.config
    return Architecture(
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        head_size=cache_head_size(config.head_size),
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        context_length=config.context_length,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


def _write(
    checkpoint: Checkpoint, folder: Path, name: str, variants: Sequence[Variant], begin: Callable[[str], None]
) -> Manifest:
    config = checkpoint.config
    write_tokenizer(checkpoint.tokenizer, folder / TOKENIZER_FILE)
    files: dict[Variant, list[Path]] = {}
    # The reference is always fp32; it stays out of the artifact where nobody asked for it.
    for variant in dict.fromkeys((Variant.FP32, *variants)):
        if variant in variants:
            begin(f"build {variant.value}")
        (folder / variant.value).mkdir()
        files[variant] = write_graph(checkpoint, variant, folder / variant.value / GRAPH_FILE)
    golden, cards = _measure(checkpoint, {variant: paths[0] for variant, paths in files.items()}, begin)
    begin("finish")
    for variant in set(files) - set(variants):
        for path in files.pop(variant):
            path.unlink()
        (folder / variant.value).rmdir()
    manifest = Manifest(
        name=name,
        kind=config.head.kind,
        architecture=architecture_of(checkpoint),
        tokenizer=file_entry(folder, folder / TOKENIZER_FILE),
        variants={
            variant: VariantEntry(
                tuple(file_entry(folder, path) for path in files[variant]), cards.get(variant)
            )
            for variant in variants
        },
        labels=config.labels,
        slot_labels=config.slot_labels,
        nlu_echo=config.nlu_echo,
        problem_type=config.problem_type,
        golden=golden,
        provenance={
            "architecture": config.head.value,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), "utf-8")
    return manifest


def _measure(
    checkpoint: Checkpoint, graphs: dict[Variant, Path], begin: Callable[[str], None]
) -> tuple[tuple[GoldenPrompt, ...], dict[Variant, dict[str, float]]]:
    if checkpoint.config.head.kind is Kind.LM:
        return _measure_language(checkpoint, graphs, begin)
    return _measure_head(checkpoint, graphs, begin)


def _measure_language(
    checkpoint: Checkpoint, graphs: dict[Variant, Path], begin: Callable[[str], None]
) -> tuple[tuple[GoldenPrompt, ...], dict[Variant, dict[str, float]]]:
    begin("golden")
    config = checkpoint.config
    reference = LanguageReference(
        graphs[Variant.FP32], config, architecture_of(checkpoint), checkpoint.tokenizer
    )
    text = reference.calibration()
    golden = reference.golden(text)
    begin("quality")
    cards: dict[Variant, dict[str, float]] = {
        variant: language_card(reference.compare(graph, text))
        for variant, graph in graphs.items()
        if variant is not Variant.FP32
    }
    return golden, cards


def _measure_head(
    checkpoint: Checkpoint, graphs: dict[Variant, Path], begin: Callable[[str], None]
) -> tuple[tuple[GoldenPrompt, ...], dict[Variant, dict[str, float]]]:
    begin("golden")
    config = checkpoint.config
    reference = HeadReference(graphs[Variant.FP32], config, checkpoint.tokenizer)
    golden = reference.golden()
    begin("quality")
    texts = [ids for _, ids in reference.texts]
    cards: dict[Variant, dict[str, float]] = {}
    for variant, graph in graphs.items():
        if variant is not Variant.FP32:
            found = HeadSession(graph).run(texts)
            expected = (reference.logits, reference.slot_logits)
            cards[variant] = head_card(expected, found, [len(ids) for ids in texts], config.problem_type)
    return golden, cards
