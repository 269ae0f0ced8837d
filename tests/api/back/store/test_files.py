"""Expiry of files, and the blobs that they share with models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from api.back.settings import BackSettings
from api.back.store.files import FileStore
from api.back.store.records import FileRecord, now
from api.errors import NotFound
from tests.api.back.stores import Stores, open_stores

pytestmark = pytest.mark.anyio
BEGIN = now()


def record_of(path: Path, number: int = 0, days: int = 1) -> FileRecord:
    data = path.read_bytes()
    created = BEGIN + timedelta(seconds=number)
    digest = hashlib.sha256(data).hexdigest()
    return FileRecord(
        f"file-{number}", "me", "x", "batch", digest, len(data), created, created + timedelta(days=days)
    )


async def test_expired_files_are_gone_at_once_and_deleted_by_the_sweep(
    stores: Stores, tmp_path: Path
) -> None:
    moment = BEGIN
    files = FileStore(stores.database, stores.blobs, lambda: moment)
    (tmp_path / "x").write_bytes(b"short")
    (tmp_path / "y").write_bytes(b"long")
    short, long = record_of(tmp_path / "x"), record_of(tmp_path / "y", 1, days=3)
    await files.add(short, tmp_path / "x")
    await files.add(long, tmp_path / "y")
    assert await files.sweep() == 0
    moment += timedelta(days=2)
    with pytest.raises(NotFound):
        await files.get(short.id, "me")
    assert await files.count("me") == await files.count(None) == 1
    assert await files.sweep() == 1
    assert stores.blob_files() == {long.sha256}
    assert [chunk async for chunk in files.download(long).read()] == [b"long"]


async def test_a_record_with_the_same_id_is_replaced(stores: Stores, tmp_path: Path) -> None:
    files = FileStore(stores.database, stores.blobs)
    (tmp_path / "x").write_bytes(b"x")
    record = record_of(tmp_path / "x")
    await files.add(record, tmp_path / "x")
    await files.add(replace(record, filename="y"), tmp_path / "x")
    assert (await files.get(record.id, "me")).filename == "y"
    assert await files.count("me") == 1


async def test_blobs_of_files_and_models_are_kept_while_either_refers_to_them(
    stores: Stores, settings: BackSettings, upload: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(upload("lm").read_bytes())
    files = FileStore(stores.database, stores.blobs)
    record = record_of(copy)
    await files.add(record, copy)
    await stores.models.add_upload("tiny", upload("lm"), "lm")
    await stores.models.delete("tiny")
    assert stores.blob_files() == {record.sha256}
    async with open_stores(settings) as again:  # a start deletes blobs without a reference
        assert again.blob_files() == {record.sha256}
        await again.models.add_upload("tiny", upload("lm"), "lm")
        await FileStore(again.database, again.blobs).delete(record.id, "me")
        assert again.blob_files() == {record.sha256}
