"""The errors of an export. Messages are written for the person who gave the checkpoint.

ExportError            the base; also: output exists, artifact invalid
+-- ArchiveError       not an archive, an unsafe member, over a limit, nothing to export inside
+-- CheckpointError    an unreadable or unsupported checkpoint
+-- ArtifactError      a ready-made artifact that does not hold what its manifest says
"""

from __future__ import annotations


class ExportError(Exception):
    """`field` names the cause: a config key, a tensor, a file or an archive member."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class ArchiveError(ExportError):
    pass


class CheckpointError(ExportError):
    pass


class ArtifactError(ExportError):
    pass
