"""From an uploaded archive to an artifact, in a child process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from api.back.store.records import VersionRecord


class Converter:
    async def convert(
        self, version: VersionRecord, progress: Callable[[dict[str, Any]], None] = lambda event: None
    ) -> VersionRecord:
        """Convert and store; returns the version, ready. `progress` gets {"stage", "done", "total"}.

        A version that is ready already is returned as it is. Raises InvalidInput (field `file`: the checkpoint
        is at fault) or ServerFault, with the version marked failed; a cancelled conversion leaves it uploaded.
        """
        raise NotImplementedError
