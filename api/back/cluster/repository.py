"""The live model repository: `<model>/config.pbtxt` and `<model>/<version>/...`, as Triton reads it.

All methods block and are called in a thread, but for `lay_out`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from api.back.settings import BackSettings
from api.back.store.models import ModelStore
from api.back.store.records import VersionRecord
from runtime.contract import BACKEND_NAME, ENGINE_FILE, MANIFEST_FILE, TOKENIZER_FILE, Manifest, Variant

CONFIG_FILE = "config.pbtxt"
# Without the policy Triton would serve the highest version alone, and loading one would end the others.
CONFIG = f'backend: "{BACKEND_NAME}"\nversion_policy {{ all {{}} }}\n'


class LiveRepository:
    """Version folders appear and vanish whole, for Triton may look at any time."""

    def __init__(self, settings: BackSettings, models: ModelStore) -> None:
        self._settings = settings
        self._root = settings.repository.absolute()
        self._models = models

    def clear(self) -> None:
        """Forget the last run; what is deployed is laid out anew."""
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir(parents=True)

    async def lay_out(self, version: VersionRecord, manifest: Manifest, variant: Variant) -> None:
        """Put one variant of a version in place; its files are links to blobs where these are files."""
        building = self._settings.staging.absolute() / f"live-{uuid.uuid4().hex}"
        (building / variant.value).mkdir(parents=True)
        graph = [file.path for file in manifest.variants[variant].files]
        # ONNX Runtime reads the weights beside a graph only where both really lie in one folder.
        beside = graph if len(graph) > 1 else []
        try:
            for path in (MANIFEST_FILE, TOKENIZER_FILE, *graph):
                await self._models.place_file(version.files[path], building / path, plain=path in beside)
            await asyncio.to_thread(self._move_in, building, version, variant)
        finally:
            await asyncio.to_thread(shutil.rmtree, building, ignore_errors=True)

    def _move_in(self, building: Path, version: VersionRecord, variant: Variant) -> None:
        (building / ENGINE_FILE).write_text(json.dumps(self._engine(variant)))
        model = self._root / version.model
        model.mkdir(exist_ok=True)
        if not (model / CONFIG_FILE).exists():  # writing it again would reload every version
            (model / CONFIG_FILE).write_text(CONFIG)
        building.rename(model / str(version.version))

    def _engine(self, variant: Variant) -> dict[str, Any]:
        return {
            "variant": variant.value,
            "device": self._settings.device.value,
            "tensorrt_cache": self._settings.tensorrt_cache,
            "num_slots": self._settings.num_slots,
            "max_kv_tokens": self._settings.max_kv_tokens,
            "max_queued": self._settings.max_queued,
            "max_queued_tokens": self._settings.max_queued_tokens,
            "prefill_chunk": self._settings.prefill_chunk,
            "threads": self._settings.engine_threads,
            "step_timeout_seconds": self._settings.step_timeout_seconds,
        }

    def touch(self, model: str, version: int) -> None:
        """Make the version look changed, so that the next load takes it, and it alone, anew."""
        path = self._root / model / str(version) / ENGINE_FILE
        trial = path.with_suffix(".new")
        trial.write_text(path.read_text())
        trial.replace(path)

    def remove(self, model: str, version: int) -> bool:
        """Take a version out; the bool says whether the model has others left."""
        folder = self._root / model
        leaving = self._settings.staging.absolute() / f"live-{uuid.uuid4().hex}"
        if (folder / str(version)).exists():
            (folder / str(version)).rename(leaving)
            shutil.rmtree(leaving, ignore_errors=True)
        if not folder.exists():  # it was never laid out
            return False
        if any(child.is_dir() for child in folder.iterdir()):
            return True
        shutil.rmtree(folder)
        return False
