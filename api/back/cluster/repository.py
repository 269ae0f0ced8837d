"""The model repository of one server: `<model>/config.pbtxt` and `<model>/<version>/...`, as Triton reads it.

All methods block and are called in a thread, but for `lay_out`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import uuid
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from api.back.cluster.records import ModelVersion
from api.back.settings import BackSettings
from api.back.store.failures import translated
from api.back.store.models import ModelStore
from api.back.store.records import VersionRecord
from runtime.config import EngineConfig
from runtime.contract import BACKEND_NAME, ENGINE_FILE, TOKENIZER_FILE, Kind, Variant, model_config
from runtime.manifest import MANIFEST_FILE, Manifest

CONFIG_FILE = "config.pbtxt"


def config_text(kind: Kind) -> str:
    """The content of CONFIG_FILE. It is complete: to ask the backend for the rest takes Triton over a second.

    Without the policy Triton would serve the highest version alone, and loading one would end the others.
    Without the group it would start an instance for each GPU that it sees; the engine itself takes its GPU.
    """
    instance = {"kind": "KIND_CPU", "count": 1}
    fields = {
        "backend": BACKEND_NAME,
        "version_policy": {"all": {}},
        "instance_group": [instance],
        **model_config(kind),
    }
    config: str = text_format.MessageToString(json_format.ParseDict(fields, model_config_pb2.ModelConfig()))
    return config


class ModelRepository:
    """Version folders appear and vanish whole, because Triton may look at any time."""

    copies = False  # real files, where links to blobs cannot be followed
    facades: frozenset[str] | None = None  # the ids of those that live, which may share it; None: not known

    def __init__(self, root: Path, settings: BackSettings, models: ModelStore) -> None:
        self._settings = settings
        self._root = root.absolute()
        self._models = models

    def clear(self) -> None:
        """Remove what the last run left; each deployment is laid out again."""
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir(parents=True)

    def keep(self, versions: set[ModelVersion]) -> None:
        """Remove every other version; a repository that `clear` has emptied has none."""

    async def lay_out(self, version: VersionRecord, manifest: Manifest, variant: Variant) -> None:
        """Put one variant of a version in place; its files are links to blobs where these are files.

        Raises StoreUnavailable.
        """
        building = self._aside()
        graph = [file.path for file in manifest.variants[variant].files]
        # ONNX Runtime reads the weights beside a graph only where both really lie in one folder.
        beside = graph if len(graph) > 1 else []
        try:
            with translated(self._root):
                (building / variant.value).mkdir(parents=True)
                for path in (MANIFEST_FILE, TOKENIZER_FILE, *graph):
                    plain = self.copies or path in beside
                    await self._models.place_file(version.files[path], building / path, plain=plain)
                await asyncio.to_thread(self._move_in, building, version, manifest, variant)
        finally:
            await asyncio.to_thread(shutil.rmtree, building, ignore_errors=True)

    def _move_in(self, building: Path, version: VersionRecord, manifest: Manifest, variant: Variant) -> None:
        (building / ENGINE_FILE).write_text(self._engine_config(variant))
        model = self._root / version.model
        model.mkdir(exist_ok=True)
        config, text = model / CONFIG_FILE, config_text(manifest.kind)
        if not config.exists() or config.read_text() != text:  # writing it reloads every version
            config.write_text(text)
        building.rename(model / str(version.version))

    def _engine_config(self, variant: Variant) -> str:
        engine = dataclasses.replace(self._settings.engine, threads=self._threads)
        return EngineConfig.of(engine, variant).to_json()

    @property
    def _threads(self) -> int:
        return self._settings.threads

    def _aside(self) -> Path:
        """A path in the same file system, for what is not whole yet or not any more."""
        return self._settings.staging.absolute() / f"live-{uuid.uuid4().hex}"

    def touch(self, model: str, version: int) -> None:
        """Make the version look changed, so that the next load reloads it, and no other version."""
        # A time is all that changes, which needs no space on a full disk.
        os.utime(self._root / model / str(version) / ENGINE_FILE)

    def remove(self, model: str, version: int) -> bool:
        """Remove a version. True where the model has other versions left."""
        folder = self._root / model
        self._take_away(folder / str(version))
        if not folder.exists():  # it was not laid out
            return False
        if any(child.is_dir() for child in folder.iterdir()):
            return True
        shutil.rmtree(folder)
        return False

    def _take_away(self, folder: Path) -> None:
        leaving = self._aside()
        if folder.exists():
            folder.rename(leaving)
            shutil.rmtree(leaving, ignore_errors=True)
