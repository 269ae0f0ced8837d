"""The source of an export: a folder, an archive or a hub name, of a checkpoint or of an artifact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from export.adapter import merge_adapter
from export.archive import (
    ADAPTER_MARK,
    ARTIFACT_MARK,
    CHECKPOINT_MARK,
    files_of,
    skipped_note,
    unpack_archive,
)
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
    adapter: Path | None = None  # a folder beside it


def export_source(
    source: Path | str,
    output: Path,
    *,
    name: str,
    variants: Sequence[Variant],
    overwrite: bool,
    limits: ArchiveLimits,
    adapter: Path | None = None,
    calibration: Path | None = None,
    verify: Verify | None = None,
    report: Report = ignore,
) -> Manifest:
    """Export a checkpoint, or validate and copy an artifact; an archive is unpacked beside `output`.

    The LoRA in the folder `adapter`, or beside the checkpoint, is merged into it.

    `verify` needs a checkpoint: with an artifact it is an ExportError.
    """
    check_variants(variants)
    beside = output.absolute().with_name
    with (
        open_source(source, beside(f".{output.name}.unpacked"), limits) as opened,
        merged(opened, adapter, beside(f".{output.name}.merged")) as found,
    ):
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
        yield Source(path, path.name or path.resolve().name, notes, _adapter_of(path, path))
    elif path.is_file():
        with scratch_folder(scratch) as folder:
            skipped: list[str] = []
            unpacked = unpack_archive(path, folder, limits, skipped.append)
            yield Source(unpacked, path.name, skipped_note(skipped), _adapter_of(unpacked, folder))
    elif not path.exists() and (hub := HubName.parse(str(source))) is not None:
        folder, commit = fetch_checkpoint(hub)
        yield Source(folder, f"hub: {hub.repository}@{commit}")
    else:
        raise ExportError(f"{path.name}: no such file or folder", field="source")


@contextmanager
def merged(source: Source, adapter: Path | None, scratch: Path) -> Iterator[Source]:
    """The source with its adapter, or with the folder `adapter`, merged into it in the new folder `scratch`.

    The same source where there is none.
    """
    folder = adapter or source.adapter
    if folder is None:
        yield source
        return
    if (source.folder / ARTIFACT_MARK).is_file():
        raise ExportError("adapter: an artifact takes none; merge it into its checkpoint", field="adapter")
    if not (folder / ADAPTER_MARK).is_file():
        raise ExportError(f"{folder.name}: no {ADAPTER_MARK} in this folder", field="adapter")
    with scratch_folder(scratch) as into:
        merge_adapter(source.folder, folder, into)
        name = folder.resolve().name
        note = f"the adapter {name} is merged into it"
        yield Source(into, f"{source.origin} with {name}", (note, *source.notes))


def _adapter_of(folder: Path, top: Path) -> Path | None:
    """The adapter in a checkpoint's folder, or in another folder of the archive that is unpacked in `top`.

    Raises ExportError for an adapter without a base.
    """
    if (folder / ADAPTER_MARK).is_file():
        if not (folder / CHECKPOINT_MARK).is_file():
            why = "an adapter without its base: lmaas export BASE --adapter FOLDER"
            raise ExportError(f"{ADAPTER_MARK}: {why}", field="source")
        return folder
    beside = [] if top == folder else [path.parent for path in sorted(top.glob(f"*/{ADAPTER_MARK}"))]
    if len(beside) > 1:
        names = ", ".join(path.name for path in beside)
        raise ExportError(f"archive: {len(beside)} adapters, but one is merged: {names}", field="file")
    return beside[0] if beside else None
