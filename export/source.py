"""The source of an export: a folder, an archive or a hub name, of a checkpoint or of an artifact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from export.archive import ARTIFACT_MARK, files_of, skipped_note, unpack_archive
from export.errors import ExportError
from export.hub import HubName, fetch_checkpoint
from export.members import ArchiveLimits
from export.output import scratch_folder
from export.pipeline import check_variants, export_checkpoint
from export.progress import Report, ignore
from export.validation.artifact import import_artifact
from export.verification.verify import Verify
from runtime.contract import Variant
from runtime.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Source:
    """The folder of a source, and its origin for the provenance."""

    folder: Path
    origin: str
    notes: tuple[str, ...] = ()  # about what of it is skipped


def export_source(
    source: Path | str,
    output: Path,
    *,
    name: str,
    variants: Sequence[Variant],
    overwrite: bool,
    limits: ArchiveLimits,
    calibration: Path | None = None,
    verify: Verify | None = None,
    report: Report = ignore,
) -> Manifest:
    """Export a checkpoint, or validate and copy an artifact; an archive is unpacked beside `output`.

    `verify` needs a checkpoint: with an artifact it is an ExportError.
    """
    check_variants(variants)
    with open_source(source, output.absolute().with_name(f".{output.name}.unpacked"), limits) as found:
        if not (found.folder / ARTIFACT_MARK).is_file():
            return export_checkpoint(
                found.folder,
                output,
                name=name,
                variants=variants,
                overwrite=overwrite,
                calibration=calibration,
                origin=found.origin,
                notes=found.notes,
                verify=verify,
                report=report,
            )
        if verify is not None:
            raise ExportError(
                "verify: an artifact comes without the checkpoint to compare with", field="verify"
            )
        return import_artifact(found.folder, output, name=name, overwrite=overwrite, report=report)


@contextmanager
def open_source(source: Path | str, scratch: Path, limits: ArchiveLimits) -> Iterator[Source]:
    """Find the folder of `source`; an archive is unpacked into `scratch`, which is removed after the block.

    Anything else may be a hub name. An absolute path is never one, so an upload cannot start a download.
    """
    path = Path(source)
    if path.is_dir():
        notes = () if (path / ARTIFACT_MARK).is_file() else skipped_note(files_of(path)[1])
        yield Source(path, path.name or path.resolve().name, notes)
    elif path.is_file():
        with scratch_folder(scratch) as folder:
            skipped: list[str] = []
            unpacked = unpack_archive(path, folder, limits, skipped.append)
            yield Source(unpacked, path.name, skipped_note(skipped))
    elif not path.exists() and (hub := HubName.parse(str(source))) is not None:
        folder, commit = fetch_checkpoint(hub)
        yield Source(folder, f"hub: {hub.repository}@{commit}")
    else:
        raise ExportError(f"{path.name}: no such file or folder", field="source")
