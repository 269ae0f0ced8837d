"""Backup and restore, and the check of the store: on both databases and both kinds of blob store."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from sqlalchemy import delete, select

from api.back.settings import BackSettings
from api.back.store import fsck
from api.back.store.backup import MANIFEST, write_backup
from api.back.store.keys import KeyStore
from api.back.store.restore import restore
from api.back.store.tables import metadata, version_files
from api.caller import NO_LIMITS, Scope
from api.errors import ServerFault
from runtime.calibration import Calibration
from tests.api.back.store.test_tasks import record
from tests.api.back.stores import Stores, open_stores

pytestmark = pytest.mark.anyio
Upload = Callable[[str], Path]
KINDS = ["sqlite and a folder", "postgresql and a bucket"]


def new_settings(request: pytest.FixtureRequest, home: Path) -> BackSettings:
    """Of an empty home, with a database and a bucket that are empty."""
    if request.param == KINDS[0]:
        return BackSettings(home=home)
    server = request.getfixturevalue("s3_server")
    request.getfixturevalue("bucket")
    url = request.getfixturevalue("postgres").create_database()
    return BackSettings(home=home, database_url=url, blob_url=server.create_bucket())


@pytest.fixture(params=KINDS)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> BackSettings:
    return new_settings(request, tmp_path / "home")


@pytest.fixture
def target(request: pytest.FixtureRequest, settings: BackSettings, tmp_path: Path) -> BackSettings:
    """Where the backup is brought to: the same kind."""
    home = tmp_path / "restored"
    if settings.database_url is None:
        return BackSettings(home=home)
    url = request.getfixturevalue("postgres").create_database()
    return BackSettings(
        home=home, database_url=url, blob_url=request.getfixturevalue("s3_server").create_bucket()
    )


async def fill(stores: Stores, upload: Upload) -> None:
    for name, archive in (("tiny", "lm"), ("tiny", "other-lm")):
        version, _ = await stores.models.add_upload(name, upload(archive), archive)
        await stores.converter.convert(version)
    await stores.models.update("tiny", description="a test", aliases={"stable": 1})
    await stores.models.calibrations.write(await stores.models.version("tiny", 1), Calibration(1.5, 0.6))
    await stores.writer.add(record(1))
    (stores.settings.home / "bundled.json").write_text("{}")


async def rows(stores: Stores) -> dict[str, list[Any]]:
    """All that the database holds, but for who runs what at present."""
    found = {}
    async with stores.database.read() as connection:
        for table in metadata.sorted_tables:
            if table.name != "workers":
                content = (await connection.execute(select(table))).all()
                found[table.name] = sorted(map(repr, content))
    return found


async def test_a_backup_made_while_others_write_comes_back(
    stores: Stores, upload: Upload, target: BackSettings, tmp_path: Path
) -> None:
    await fill(stores, upload)
    _, secret = await KeyStore(stores.database).create("somebody", frozenset({Scope.INFER}), NO_LIMITS, None)
    before = await rows(stores)
    file = tmp_path / "backup.tar"
    written, _ = await asyncio.gather(
        write_backup(stores.database, stores.blobs, stores.settings.home, file),
        stores.models.delete_version("tiny", 1),
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())  # noqa: ASYNC240 - a few files
    assert secret.encode() not in file.read_bytes()
    with pytest.raises(ServerFault, match="exists already"):
        await write_backup(stores.database, stores.blobs, stores.settings.home, file)
    assert await restore(file, target) == written
    async with open_stores(target) as restored:
        after = await rows(restored)
        async with restored.database.read() as connection:
            num_files = len((await connection.execute(select(version_files))).all())
        report = await fsck.check(restored.database, restored.blobs)
        assert report.findings == ()
        assert (report.num_blobs, report.num_unreferenced) == (written.num_blobs, 0)
        if num_files == len(before["version_files"]):  # the copy was made before the deletion
            assert after == before
            assert (await restored.models.version("tiny", "stable")).version == 1
        assert (await restored.tasks.get("task-001")).type == record(1).type
        assert (await KeyStore(restored.database).list())[0].name == "somebody"
        download = await restored.models.archive("tiny", 2)
        original = await stores.models.archive("tiny", 2)
        assert [chunk async for chunk in download.read()] == [chunk async for chunk in original.read()]
    assert (target.home / "bundled.json").read_text() == "{}"


@pytest.fixture
async def backup(stores: Stores, upload: Upload, tmp_path: Path) -> Path:
    await stores.models.add_upload("tiny", upload("lm"), "x")
    await write_backup(stores.database, stores.blobs, stores.settings.home, tmp_path / "backup.tar")
    return tmp_path / "backup.tar"


async def test_only_an_empty_home_and_an_empty_database_are_filled(
    backup: Path, stores: Stores, target: BackSettings
) -> None:
    target.home.mkdir()
    (target.home / "thesis.txt").touch()
    with pytest.raises(ServerFault, match=r"not empty \(it has thesis.txt\)"):
        await restore(backup, target)
    assert [path.name for path in target.home.iterdir() if path.name != "lock"] == ["thesis.txt"]
    if stores.settings.database_url is not None:
        (target.home / "thesis.txt").unlink()
        used = dataclasses.replace(target, database_url=stores.settings.database_url)
        with pytest.raises(ServerFault, match="has models already"):
            await restore(backup, used)


def repacked(backup: Path, change: Callable[[str, bytes], tuple[str, bytes]], end: int | None = None) -> None:
    """With each member changed, and only the first `end` of them."""
    out = io.BytesIO()
    with tarfile.open(backup, "r:") as old, tarfile.open(fileobj=out, mode="w:") as new:
        for member in list(old)[:end]:
            content = old.extractfile(member)
            assert content is not None
            name, data = change(member.name, content.read())
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            new.addfile(entry, io.BytesIO(data))
    backup.write_bytes(out.getvalue())


def flipped(name: str, data: bytes) -> tuple[str, bytes]:
    return name, data[:-1] + bytes([data[-1] ^ 1]) if name.startswith("blobs/") else data


def hostile(name: str, data: bytes) -> tuple[str, bytes]:
    if name != MANIFEST:
        return name, data
    value = json.loads(data)
    value["files"]["../outside"] = {"sha256": "0" * 64, "size": 0}
    return name, json.dumps(value).encode()


def of_the_future(name: str, data: bytes) -> tuple[str, bytes]:
    return name, data.replace(b'"format": 1', b'"format": 2') if name == MANIFEST else data


@pytest.mark.parametrize(
    ("change", "end", "message"),
    [
        (flipped, None, "damaged"),
        (lambda name, data: (name, data), -1, "damaged"),
        (hostile, None, "outside"),
        (of_the_future, None, "format 2"),
        (lambda name, data: (f"x{name}", data), None, "damaged"),
    ],
)
@pytest.mark.parametrize("settings", KINDS[:1], indirect=True)
async def test_a_damaged_backup_leaves_nothing(
    backup: Path,
    target: BackSettings,
    change: Callable[[str, bytes], tuple[str, bytes]],
    end: int | None,
    message: str,
) -> None:
    repacked(backup, change, end)
    with pytest.raises(ServerFault, match=message):
        await restore(backup, target)
    assert {path.name for path in target.home.iterdir()} <= {"lock"}


@pytest.mark.parametrize("settings", KINDS[:1], indirect=True)
async def test_what_is_no_backup_is_refused(target: BackSettings, tmp_path: Path) -> None:
    for content in (b"", b"hello", bytes(4096)):
        (tmp_path / "junk").write_bytes(content)
        with pytest.raises(ServerFault, match="backup"):
            await restore(tmp_path / "junk", target)


async def test_a_damaged_store_is_not_backed_up_but_explained(
    stores: Stores, upload: Upload, tmp_path: Path
) -> None:
    await fill(stores, upload)
    assert (await fsck.check(stores.database, stores.blobs)).findings == ()
    version = await stores.models.version("tiny", 1)
    digests = [file.sha256 for path, file in version.files.items() if path.endswith(".onnx")][:2]
    for sha256, content in ((digests[0], b"short"), (version.archive_sha256, None)):
        key = f"{sha256[:2]}/{sha256}"
        if content is None:
            obstore.delete(stores.blobs._store, key)
        else:
            obstore.put(stores.blobs._store, key, content)
    async with stores.database.write() as connection:
        gone = version_files.c.sha256 == digests[1]
        await connection.execute(delete(version_files).where(gone, version_files.c.version == 1))
    report = await fsck.check(stores.database, stores.blobs)
    problems = {(item.record, item.problem.split(":")[0].split(" has")[-1]) for item in report.findings}
    assert {record for record, _ in problems} == {"tiny version 1"}
    texts = [item.problem for item in report.findings]
    assert any("the uploaded archive is missing" in text for text in texts)
    assert any(f"has 5 bytes, not {version.files['fp32/model.onnx'].size}" in text for text in texts)
    assert any("are not as its manifest says" in text for text in texts)
    assert len(texts) == 3
    with pytest.raises(ServerFault, match="missing"):
        await write_backup(stores.database, stores.blobs, stores.settings.home, tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()


async def test_same_size_and_other_bytes_are_found_by_reading(stores: Stores, upload: Upload) -> None:
    version, _ = await stores.models.add_upload("tiny", upload("lm"), "x")
    sha256 = version.archive_sha256
    found = await stores.blobs.find(sha256)
    assert found is not None
    obstore.put(stores.blobs._store, f"{sha256[:2]}/{sha256}", bytes(found.size))
    assert (await fsck.check(stores.database, stores.blobs, contents=False)).findings == ()
    (finding,) = (await fsck.check(stores.database, stores.blobs)).findings
    assert "the uploaded archive has other bytes" in finding.problem
    await stores.blobs.delete([sha256])  # as the remedy says: the same archive again
    await stores.models.add_upload("tiny", upload("lm"), "x")
    assert (await fsck.check(stores.database, stores.blobs)).findings == ()
