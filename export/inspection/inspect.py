"""Facts about a checkpoint, an artifact, an archive of one, or a single file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from export.adapter import merge_adapter
from export.archive import ADAPTER_MARK, ARTIFACT_MARK, CHECKPOINT_MARK, PICKLE_SUFFIXES, unpack_archive
from export.checkpoint.tensors import INDEX_FILE
from export.errors import ArchiveError, CheckpointError, ExportError
from export.inspection.artifact import ArtifactFacts, inspect_artifact
from export.inspection.checkpoint import CheckpointFacts, inspect_checkpoint
from export.inspection.graph import GraphFacts, inspect_graph
from export.inspection.tensors import WeightFacts, inspect_weights
from export.members import ArchiveLimits
from export.reading import CONVERT_LINE, plain_size

Facts = CheckpointFacts | ArtifactFacts | GraphFacts | WeightFacts


def inspect_path(path: Path, limits: ArchiveLimits) -> Facts:
    """The kind is decided by the name. An archive is unpacked to a temporary folder and inspected there.

    Raises ExportError for files of other kinds; a checkpoint that cannot be exported is no error.
    """
    name = path.resolve().name
    if path.is_dir():
        return _inspect_folder(path, name)
    if not path.exists():
        raise ExportError(f"{path.name}: no such file or folder", field="source")
    plain_size(path)
    if name in (CHECKPOINT_MARK, INDEX_FILE):
        return inspect_checkpoint(path.parent, path.parent.resolve().name)
    if name == ARTIFACT_MARK:
        return inspect_artifact(path.parent, path.parent.resolve().name)
    if path.suffix == ".onnx":
        return inspect_graph(path)
    if path.suffix == ".safetensors":
        return inspect_weights([path], name)
    if path.suffix in PICKLE_SUFFIXES:
        raise CheckpointError(
            f"{name}: pickles are not opened; convert it where you trust it: {CONVERT_LINE}"
        )
    with TemporaryDirectory(prefix="lmaas-") as scratch:
        try:
            folder = unpack_archive(path, Path(scratch), limits)
        except ArchiveError as error:
            raise ArchiveError(f"{name}: {error.message}", error.field) from None
        return _inspect_folder(folder, name)


def _inspect_folder(folder: Path, name: str) -> Facts:
    if (folder / ARTIFACT_MARK).is_file():
        return inspect_artifact(folder, name)
    if (folder / ADAPTER_MARK).is_file() and (folder / CHECKPOINT_MARK).is_file():
        with suppress(CheckpointError), TemporaryDirectory(prefix="lmaas-") as merged:  # as an export does
            merge_adapter(folder, folder, Path(merged))
            return inspect_checkpoint(Path(merged), name)
    if (folder / CHECKPOINT_MARK).is_file() or any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")):
        return inspect_checkpoint(folder, name)
    raise ExportError(
        f"{name}: no checkpoint ({CHECKPOINT_MARK}) and no artifact ({ARTIFACT_MARK}) in this folder",
        field="source",
    )
