"""From a checkpoint folder to a finished artifact: graphs, golden prompts, quality cards, manifest."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import onnxruntime

from export.calibration import measure_ranges
from export.checkpoint import Checkpoint
from export.errors import ExportError
from export.files import file_entry
from export.graph.body import cache_head_size
from export.graph.build import write_graph
from export.output import new_folder
from export.progress import Progress
from export.reference import open_reference
from export.smoothing import SmoothedCheckpoint
from export.tokenizer import write_tokenizer
from runtime.contract import (
    GRAPH_FILE,
    MANIFEST_FILE,
    TOKENIZER_FILE,
    Architecture,
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
    stages = ["read", "build fp32", "golden", "finish"]
    if Variant.INT8 in variants:
        stages += ["build int8", "quality"]
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
    config, architecture = checkpoint.config, architecture_of(checkpoint)
    write_tokenizer(checkpoint.tokenizer, folder / TOKENIZER_FILE)
    # The reference is always fp32; it stays out of the artifact where nobody asked for it.
    begin(f"build {Variant.FP32.value}")
    files = {Variant.FP32: _build(checkpoint, Variant.FP32, folder)}
    reference_graph = files[Variant.FP32][0]
    begin("golden")
    reference = open_reference(reference_graph, config, architecture, checkpoint.tokenizer)
    golden = reference.golden()
    cards: dict[Variant, dict[str, float]] = {}
    if Variant.INT8 in variants:
        begin(f"build {Variant.INT8.value}")
        ranges = measure_ranges(reference_graph, reference.rows, config)
        files[Variant.INT8] = _build(SmoothedCheckpoint(checkpoint, ranges), Variant.INT8, folder)
        begin("quality")
        cards[Variant.INT8] = reference.card(files[Variant.INT8][0])
    begin("finish")
    if Variant.FP32 not in variants:
        shutil.rmtree(folder / Variant.FP32.value)
    manifest = Manifest(
        name=name,
        kind=config.head.kind,
        architecture=architecture,
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


def _build(checkpoint: Checkpoint, variant: Variant, folder: Path) -> list[Path]:
    (folder / variant.value).mkdir()
    return write_graph(checkpoint, variant, folder / variant.value / GRAPH_FILE)
