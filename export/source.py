"""What a person hands over: a folder or an archive, of a checkpoint or of an artifact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from export.archive import ARTIFACT_MARK, ArchiveLimits, unpack_archive
from export.artifact import import_artifact
from export.errors import ExportError
from export.output import scratch_folder
from export.pipeline import check_variants, export_checkpoint
from export.progress import Progress
from runtime.contract import Manifest, Variant


def export_source(
    source: Path,
    output: Path,
    *,
    name: str,
    variants: Sequence[Variant],
    overwrite: bool,
    limits: ArchiveLimits,
    progress: Callable[[Progress], None],
) -> Manifest:
    """Export a checkpoint, or check and copy an artifact; an archive is unpacked beside `output`."""
    check_variants(variants)
    if source.is_dir():
        return _export_folder(source, output, name, variants, overwrite, progress)
    if not source.is_file():
        raise ExportError(f"{source.name}: no such file or folder", field="source")
    with scratch_folder(output.absolute().with_name(f".{output.name}.unpacked")) as folder:
        unpacked = unpack_archive(source, folder, limits)
        return _export_folder(unpacked, output, name, variants, overwrite, progress)


def _export_folder(
    folder: Path,
    output: Path,
    name: str,
    variants: Sequence[Variant],
    overwrite: bool,
    progress: Callable[[Progress], None],
) -> Manifest:
    if (folder / ARTIFACT_MARK).is_file():
        return import_artifact(folder, output, overwrite=overwrite, progress=progress)
    return export_checkpoint(
        folder, output, name=name, variants=variants, overwrite=overwrite, progress=progress
    )
