"""The model repository of a Triton elsewhere: a folder that it and the façades see, which several may share.

Beside the models, `.users/<model>-<version>/<façade>` says which façade uses a version: what another one uses
is neither removed nor unloaded. A façade that has died, or whose pod is another one now, uses nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from pathlib import Path

from api.back.cluster.records import ModelVersion
from api.back.cluster.repository import ModelRepository
from api.back.settings import BackSettings
from api.back.store.failures import translated
from api.back.store.models import ModelStore
from api.back.store.records import VersionRecord
from api.errors import StoreUnavailable
from runtime.contract import ENGINE_FILE, Variant
from runtime.manifest import MANIFEST_FILE, Manifest

USERS = ".users"
BUILDING = ".building"
# What was laid out so lately may be another façade's that has not recorded it yet: a start leaves it.
YOUNG_SECONDS = 600.0
# Likewise the mark of a façade that starts, and is not known to live yet.
STARTING_SECONDS = 60.0


class SharedRepository(ModelRepository):
    copies = True

    def __init__(self, root: Path, settings: BackSettings, models: ModelStore, facade: str) -> None:
        """`facade` is unique among those that share the folder, and stays the same from run to run."""
        super().__init__(root, settings, models)
        self._facade = facade

    def clear(self) -> None:
        """Give up what the last run of this façade used; the models stay, because others may serve them."""
        self._root.mkdir(parents=True, exist_ok=True)
        for mark in self._root.glob(f"{USERS}/*/{self._facade}"):
            mark.unlink(missing_ok=True)

    def keep(self, versions: set[ModelVersion]) -> None:
        """Remove the versions that no record names and no façade has just laid out."""
        for folder in self._root.glob("[!.]*/[0-9]*"):
            version = folder.parent.name, int(folder.name)
            young = time.time() - folder.stat().st_mtime < YOUNG_SECONDS
            if version not in versions and not young:
                shutil.rmtree(self._users(*version), ignore_errors=True)
                super().remove(*version)

    async def lay_out(self, version: VersionRecord, manifest: Manifest, variant: Variant) -> None:
        """Real files, in place of links that the other machine could not follow. What is there stays."""
        users = self._users(version.model, version.version)
        with translated(self._root):
            await asyncio.to_thread(users.mkdir, parents=True, exist_ok=True)
            await asyncio.to_thread((users / self._facade).touch)
        if await asyncio.to_thread(self._is_there, version, variant):
            return
        await asyncio.to_thread(self._take_away, self._root / version.model / str(version.version))
        try:
            await super().lay_out(version, manifest, variant)
        except StoreUnavailable:
            if not await asyncio.to_thread(self._is_there, version, variant):  # another façade was quicker
                raise

    def remove(self, model: str, version: int) -> bool:
        """Remove it where no other façade uses it. True where a load, and not an unload, is to follow."""
        users = self._users(model, version)
        (users / self._facade).unlink(missing_ok=True)
        if users.exists() and any(map(self._counts, users.iterdir())):
            return True
        shutil.rmtree(users, ignore_errors=True)
        return super().remove(model, version)

    def _counts(self, mark: Path) -> bool:
        if self.facades is None or mark.name in self.facades:
            return True
        return time.time() - mark.stat().st_mtime < STARTING_SECONDS

    def _users(self, model: str, version: int) -> Path:
        return self._root / USERS / f"{model}-{version}"

    def _is_there(self, version: VersionRecord, variant: Variant) -> bool:
        folder = self._root / version.model / str(version.version)
        engine = folder / ENGINE_FILE
        return (
            engine.exists()
            and engine.read_text() == self._engine_config(variant)
            and (folder / MANIFEST_FILE).stat().st_size == version.files[MANIFEST_FILE].size
            and (folder / variant.value).is_dir()
        )

    @property
    def _threads(self) -> int:
        """The other machine has processors of its own: 0 leaves the number to it."""
        return self._settings.engine.threads

    def _aside(self) -> Path:
        folder = self._root / BUILDING
        folder.mkdir(parents=True, exist_ok=True)
        return folder / uuid.uuid4().hex
