"""From a checkpoint folder to a finished artifact: graphs, golden prompts, quality cards, manifest."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import onnx
import onnxruntime

from export.checkpoint.chat import read_chat
from export.checkpoint.config import Head
from export.checkpoint.folder import Checkpoint, CountedCheckpoint
from export.checkpoint.tokenizer import write_tokenizer
from export.errors import ExportError
from export.evaluation.reference import Measured, Reference, open_reference
from export.evaluation.texts import read_calibration
from export.files import file_entry
from export.graph.build import build_graph, write_graph
from export.graph.int4 import Int4Weights
from export.output import new_folder
from export.progress import Report, Stages, ignore
from export.quantization.activations import open_activations
from export.quantization.centering import CenteredCheckpoint
from export.quantization.grams import GramMatrices, product_inputs
from export.quantization.smoothing import SmoothedCheckpoint, measure_ranges
from export.validation.artifact import MAX_NOTE_LENGTH
from export.verification.verify import Verify, check_verifiable
from runtime.contract import GRAPH_FILE, TOKENIZER_FILE, Variant
from runtime.manifest import MANIFEST_FILE, Manifest, VariantEntry


def export_checkpoint(
    source: Path,
    output: Path,
    *,
    name: str,
    variants: Sequence[Variant],
    overwrite: bool = False,
    calibration: Path | None = None,
    origin: str | None = None,
    notes: Sequence[str] = (),
    verify: Verify | None = None,
    report: Report = ignore,
) -> Manifest:
    """Export the Hugging Face folder `source` into the new folder `output`; raises ExportError.

    The artifact is written beside `output` and renamed at the end: it appears complete or not at all.
    `calibration` is a text file on which variants are compared; `origin` is recorded in the provenance,
    and so are `notes` with those of the checkpoint.
    `verify` checks the artifact before the rename; if it raises ExportError, the artifact is removed.
    """
    check_variants(variants)
    if verify is not None:
        check_verifiable(variants)
    text = None if calibration is None else read_calibration(calibration)
    building = _built(variants)
    stages = Stages(["read", *_stages(building), "finish"], report)
    stages.begin("read")
    checkpoint = Checkpoint.open(source)
    chat = read_chat(source) if checkpoint.config.head is Head.LM else {}
    with new_folder(output, overwrite=overwrite) as folder, TemporaryFile(dir=folder) as scratch:
        export = _Export(checkpoint, folder, text, scratch, stages)
        for variant in building:
            export.add(variant)
        stages.begin("finish")
        found = origin or source.resolve().name
        manifest = export.finish(name, variants, found, chat, notes)
        manifest_path = folder / MANIFEST_FILE
        manifest_path.write_text(manifest.to_json(), "utf-8")
        if verify is not None:
            manifest.provenance["verified"] = verify(source, folder)
            manifest_path.write_text(manifest.to_json(), "utf-8")
    stages.end()
    return manifest


def _built(variants: Sequence[Variant]) -> list[Variant]:
    """fp32 first, which is the reference. It is left out of the artifact unless it was asked for."""
    others = [variant for variant in Variant if variant in variants and variant is not Variant.FP32]
    return [Variant.FP32, *others]


def _stages(building: Sequence[Variant]) -> list[str]:
    names = []
    for variant in building:
        if variant in (Variant.INT8, Variant.INT4):
            names.append(f"calibrate {variant.value}")
        names.append(f"build {variant.value}")
        if variant is Variant.FP32:
            names.append("write texts")
        names.append(f"measure {variant.value}")
    return names


def check_variants(variants: Sequence[Variant]) -> None:
    if not variants or len(set(variants)) != len(variants):
        raise ExportError("variants: at least one is needed, and each only once", field="variants")


class _Export:
    """Builds one artifact in `folder`; variants are added one by one, fp32 first."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        folder: Path,
        calibration: str | None,
        scratch: IO[bytes],
        stages: Stages,
    ) -> None:
        self._checkpoint = checkpoint
        self._folder = folder
        self._calibration = calibration
        self._scratch = scratch
        self._stages = stages
        self._files: dict[Variant, list[Path]] = {}
        self._measured: dict[Variant, Measured] = {}
        self._reference: Reference
        write_tokenizer(checkpoint.tokenizer, folder / TOKENIZER_FILE)

    def add(self, variant: Variant) -> None:
        _give_back()
        path = self._folder / variant.value / GRAPH_FILE
        path.parent.mkdir()
        if variant is Variant.INT4:
            self._files[variant] = self._write_int4(path)
        else:
            prepared = self._prepared(variant)
            self._stages.begin(f"build {variant.value}")
            self._files[variant] = write_graph(CountedCheckpoint(prepared, self._stages.step), variant, path)
        if variant is Variant.FP32:
            self._stages.begin("write texts")
            self._reference = open_reference(
                path,
                self._checkpoint.config,
                self._checkpoint.tokenizer,
                self._calibration,
                self._scratch,
                self._stages.step,
            )
        _give_back()
        self._stages.begin(f"measure {variant.value}")
        self._measured[variant] = self._reference.measure(path, variant, self._stages.step)

    def _write_int4(self, path: Path) -> list[Path]:
        self._stages.begin("calibrate int4")
        graph, config = self._files[Variant.FP32][0], self._checkpoint.config
        rows = self._reference.calibration_rows(graph, self._stages.step)
        self._stages.begin("build int4")
        names = [name for layer in product_inputs(config) for name in layer]
        with open_activations(graph, names, config) as reader:
            weights = partial(Int4Weights, grams=GramMatrices(reader, rows, config))
            return build_graph(CountedCheckpoint(self._checkpoint, self._stages.step), weights, path)

    def _prepared(self, variant: Variant) -> Checkpoint:
        """The checkpoint with its weights changed so that this variant loses least by rounding."""
        if variant is Variant.INT8:
            self._stages.begin("calibrate int8")
            graph = self._files[Variant.FP32][0]
            ranges = measure_ranges(graph, self._reference.rows, self._checkpoint.config)
            return SmoothedCheckpoint(self._checkpoint, ranges)
        return CenteredCheckpoint(self._checkpoint) if variant is Variant.FP16 else self._checkpoint

    def finish(
        self,
        name: str,
        variants: Sequence[Variant],
        origin: str,
        chat: dict[str, str],
        notes: Sequence[str],
    ) -> Manifest:
        for variant in self._files.keys() - set(variants):
            shutil.rmtree(self._folder / variant.value)
        config = self._checkpoint.config
        notes = (*self._checkpoint.notes, *notes)
        return Manifest(
            name=name,
            kind=config.head.kind,
            architecture=config.architecture,
            tokenizer=file_entry(self._folder, self._folder / TOKENIZER_FILE),
            variants={variant: self._entry(variant) for variant in variants},
            labels=config.labels,
            slot_labels=config.slot_labels,
            nlu_echo=config.nlu_echo,
            slot_transitions=config.slot_transitions,
            problem_type=config.problem_type,
            sampling=dict(config.sampling),
            chat=chat,
            golden=self._reference.prompts,
            provenance={
                "source": origin,
                "architecture": config.head.value,
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "compared_on": self._compared_on(),
                **({"notes": "; ".join(notes)[:MAX_NOTE_LENGTH]} if notes else {}),
                "onnx": onnx.__version__,
                "onnxruntime": onnxruntime.__version__,
            },
        )

    def _compared_on(self) -> str:
        if self._calibration is not None:
            return "a calibration text"
        is_lm = self._checkpoint.config.head is Head.LM
        return "text that the model wrote itself" if is_lm else "the exporter's sentences"

    def _entry(self, variant: Variant) -> VariantEntry:
        measured = self._measured[variant]
        return VariantEntry(
            files=tuple(file_entry(self._folder, path) for path in self._files[variant]),
            golden=measured.golden,
            load_seconds=round(measured.load_seconds, 3),
            quality=measured.quality,
        )


def _give_back() -> None:
    """Return freed memory to the operating system: glibc keeps small pieces for itself.

    Other C libraries have no such call and do not need it.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
