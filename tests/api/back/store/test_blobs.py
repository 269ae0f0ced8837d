"""The blob store alone: a bucket that fails, blobs that are damaged, locks among processes, garbage."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import anyio
import obstore
import pytest

from api.back.settings import BackSettings
from api.back.store import garbage
from api.back.store.blob_lock import BlobLock
from api.back.store.database import Database
from api.errors import ServerFault, StoreUnavailable
from bench.chaos.services import S3Server
from tests.api.back.stores import Stores, open_stores
from tests.e2e.appliance import free_port

pytestmark = pytest.mark.anyio
BOUND_SECONDS = 20.0
NOW, LONG_AGO = timedelta(0), timedelta(days=1)


@pytest.fixture(params=["folder", "bucket"])
def settings(request: pytest.FixtureRequest, settings: BackSettings) -> BackSettings:
    if request.param == "folder":
        return settings
    return dataclasses.replace(settings, blob_url=request.getfixturevalue("bucket"))


async def put(stores: Stores, content: bytes) -> str:
    path, sha256 = stores.settings.home / "new", hashlib.sha256(content).hexdigest()
    path.write_bytes(content)
    await stores.blobs.put(path, sha256)
    return sha256


async def test_a_blob_comes_back_whole_and_in_parts(stores: Stores, tmp_path: Path) -> None:
    content = bytes(range(256)) * 50_000  # several parts of an upload, several reads
    sha256 = await put(stores, content)
    assert await stores.blobs.read(sha256, 1000, 9_000_000) == content[1000:9_000_000]
    for plain in (False, True):
        await stores.blobs.place(sha256, tmp_path / f"{plain}", plain=plain)
        assert (tmp_path / f"{plain}").read_bytes() == content
    (blob,) = await stores.blobs.all()
    assert (blob.sha256, blob.size) == (sha256, len(content))
    assert await stores.blobs.digest(blob) == sha256
    assert await stores.blobs.find("0" * 64) is None


async def test_what_is_missing_or_damaged_is_named(stores: Stores, tmp_path: Path) -> None:
    sha256 = await put(stores, b"whole")
    obstore.put(stores.blobs._store, f"{sha256[:2]}/{sha256}", b"wrong")
    (blob,) = await stores.blobs.all()
    assert await stores.blobs.digest(blob) != sha256
    if stores.settings.blob_url:
        with pytest.raises(ServerFault, match=f"{sha256} is damaged"):
            await stores.blobs.place(sha256, tmp_path / "copy")
    await put(stores, b"whole")
    obstore.put(stores.blobs._store, f"{sha256[:2]}/{sha256}", b"cut")
    await put(stores, b"whole")
    assert await stores.blobs.read(sha256, 0, 5) == b"whole"
    await stores.blobs.delete([sha256])
    await stores.blobs.delete([sha256])
    with pytest.raises(ServerFault, match=f"{sha256} is missing"):
        await stores.blobs.read(sha256, 0, 5)


async def test_garbage_goes_and_what_is_used_young_or_foreign_stays(
    stores: Stores, upload: Callable[[str], Path]
) -> None:
    version, _ = await stores.models.add_upload("tiny", upload("lm"), "x")
    orphan = await put(stores, b"orphan")
    obstore.put(stores.blobs._store, "somebody/else", b"foreign")
    collect = (stores.database, stores.blobs)
    assert await garbage.find_unreferenced(*collect, LONG_AGO) == []
    assert await garbage.collect(*collect, LONG_AGO) == []
    assert [blob.sha256 for blob in await garbage.find_unreferenced(*collect, NOW)] == [orphan]
    assert stores.blob_files() == {version.archive_sha256, orphan}
    assert [blob.sha256 for blob in await garbage.collect(*collect, NOW)] == [orphan]
    assert stores.blob_files() == {version.archive_sha256}
    assert obstore.head(stores.blobs._store, "somebody/else")["size"] == 7


async def test_nothing_is_deleted_while_a_blob_is_about_to_be_used(stores: Stores) -> None:
    orphan = await put(stores, b"orphan")
    async with stores.blobs.lock.keeping():
        async with stores.blobs.lock.keeping():
            collecting = asyncio.create_task(garbage.collect(stores.database, stores.blobs, NOW))
            await garbage.delete_unreferenced(stores.database, stores.blobs, {orphan})  # it gives up
        assert stores.blob_files() == {orphan}
    assert [blob.sha256 for blob in await collecting] == [orphan]


async def test_the_lock_holds_among_processes(database_url: str, tmp_path: Path) -> None:
    """Another process has the lock until it is killed."""
    command = [sys.executable, "-c", HOLDER, database_url, str(tmp_path / "lock")]
    holder = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    try:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"held\n"
        async with Database.open(database_url) as database:
            lock = BlobLock(database, tmp_path / "lock")
            with pytest.raises(StoreUnavailable, match="held by"):
                async with lock.deleting(0.1):
                    pass
            async with lock.keeping():
                pass
            holder.kill()
            await holder.wait()
            with anyio.fail_after(BOUND_SECONDS):
                async with lock.deleting():
                    pass
    finally:
        if holder.returncode is None:
            holder.kill()
            await holder.wait()


HOLDER = """
import asyncio, sys
from pathlib import Path
from api.back.store.blob_lock import BlobLock
from api.back.store.database import Database

async def hold():
    async with Database.open(sys.argv[1]) as database, BlobLock(database, Path(sys.argv[2])).keeping():
        print("held", flush=True)
        await asyncio.sleep(600)

asyncio.run(hold())
"""


async def test_a_bucket_that_fails_is_named_and_recovers(
    upload: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = S3Server(free_port(), tmp_path / "s3.log")
    try:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        failing = BackSettings(home=tmp_path / "home", blob_url=server.create_bucket("failing"))
        async with open_stores(failing) as stores:
            await stores.models.add_upload("first", upload("lm"), "x")
            server.kill()
            with anyio.fail_after(BOUND_SECONDS):
                with pytest.raises(StoreUnavailable, match=r"the blob store fails .*: s3://failing"):
                    await stores.models.add_upload("tiny", upload("other-lm"), "x")
                with pytest.raises(StoreUnavailable):
                    await stores.converter.convert(await stores.models.version("first", 1))
            assert [record.name for record in await stores.models.list()] == ["first"]
            await stores.models.delete("first")  # its blob is left to a clean-up
            server.start()  # empty
            with pytest.raises(StoreUnavailable, match="the blob store is gone"):
                await stores.models.add_upload("tiny", upload("other-lm"), "x")
            server.create_bucket("failing")
            version, new = await stores.models.add_upload("tiny", upload("other-lm"), "x")
            assert new
            assert stores.blob_files() == {version.archive_sha256}
    finally:
        server.kill()


@pytest.mark.parametrize("url", ["s3://nowhere", "gopher://x", "s3://"])
async def test_a_url_that_names_no_store_is_refused(tmp_path: Path, bucket: str, url: str) -> None:
    with pytest.raises(ServerFault, match="blob_url"):
        async with open_stores(BackSettings(home=tmp_path / "home", blob_url=url)):
            pass


async def test_a_folder_by_url(tmp_path: Path, upload: Callable[[str], Path]) -> None:
    shared = tmp_path / "shared by façades"
    settings = BackSettings(home=tmp_path / "home", blob_url=shared.as_uri())
    async with open_stores(settings) as stores:
        version, _ = await stores.models.add_upload("tiny", upload("lm"), "x")
        assert stores.blob_files() == {version.archive_sha256}
        sha256 = version.archive_sha256
        assert (shared / sha256[:2] / sha256).is_file()
