"""What a person hands over: a folder or an archive, of a checkpoint or of an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from export.archive import ARTIFACT_MARK, ArchiveLimits, unpack_archive
from export.artifact import import_artifact
from export.errors import ExportError
from export.output import scratch_folder
from export.pipeline import check_variants, export_checkpoint
from export.progress import Report, ignore
from runtime.contract import Manifest, Variant


def export_source(
    source: Path,
    output: Path,
    *,
    name: str,
    variants: Sequence[Variant],
    overwrite: bool,
    limits: ArchiveLimits,
    calibration: Path | None = None,
    report: Report = ignore,
) -> Manifest:
    """Export a checkpoint, or check and copy an artifact; an archive is unpacked beside `output`."""
    check_variants(variants)

    def export_folder(folder: Path) -> Manifest:
        if (folder / ARTIFACT_MARK).is_file():
            return import_artifact(folder, output, overwrite=overwrite, report=report)
        return export_checkpoint(
            folder,
            output,
            name=name,
            variants=variants,
            overwrite=overwrite,
            calibration=calibration,
            origin=source.name,
            report=report,
        )

    if source.is_dir():
        return export_folder(source)
    if not source.is_file():
        raise ExportError(f"{source.name}: no such file or folder", field="source")
    with scratch_folder(output.absolute().with_name(f".{output.name}.unpacked")) as folder:
        return export_folder(unpack_archive(source, folder, limits))
