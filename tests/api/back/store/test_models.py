"""The Model Store against a real database and real blobs."""

from __future__ import annotations

import dataclasses
import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from api.back.settings import BackSettings
from api.back.store import catalog
from api.back.store.records import DeploymentRecord, DeploymentState, ModelRecord, VersionState, now
from api.errors import Conflict, InvalidInput, NotFound, ServerFault, TooLarge
from export.archive import unpack_archive
from runtime.contract import MODEL_NAME, TOKENIZER_FILE, Kind, Variant, model_name
from runtime.manifest import Manifest
from tests.api.back.stores import Stores, open_stores

pytestmark = pytest.mark.anyio
Upload = Callable[[str], Path]


@pytest.fixture(params=["folder", "bucket"])
def settings(request: pytest.FixtureRequest, settings: BackSettings) -> BackSettings:
    """Every test of this file runs on both kinds of blob store."""
    if request.param == "folder":
        return settings
    return dataclasses.replace(settings, blob_url=request.getfixturevalue("bucket"))


async def converted(stores: Stores, upload: Upload, archive: str, name: str) -> None:
    version, _ = await stores.models.add_upload(name, upload(archive), archive)
    await stores.converter.convert(version)


async def test_an_upload_becomes_a_version_and_its_file_is_gone(stores: Stores, upload: Upload) -> None:
    archive = upload("lm")
    version, new = await stores.models.add_upload("tiny", archive, "lm.tar.gz")
    assert new
    assert (version.model, version.version, version.state) == ("tiny", 1, VersionState.UPLOADED)
    assert not archive.exists()
    assert stores.blob_files() == {version.archive_sha256}
    assert await stores.models.version("tiny", 1) == version
    record = await stores.models.get("tiny")
    assert (record.kind, record.versions) == (None, (1,))


async def test_the_same_archive_makes_no_second_copy(stores: Stores, upload: Upload) -> None:
    first, _ = await stores.models.add_upload("tiny", upload("lm"), "a")
    again, new = await stores.models.add_upload("tiny", upload("lm"), "b")
    assert not new
    assert again == first
    other, new = await stores.models.add_upload("twin", upload("lm"), "c")
    assert new
    assert other.archive_sha256 == first.archive_sha256
    assert len(stores.blob_files()) == 1


@pytest.mark.parametrize("name", ["", "Tiny", "-x", "a/b", "a" * 65, "../x", "é", "x\n"])
async def test_a_bad_name_is_refused(stores: Stores, upload: Upload, name: str) -> None:
    archive = upload("lm")
    with pytest.raises(InvalidInput) as caught:
        await stores.models.add_upload(name, archive, "x")
    assert caught.value.errors[0].field == "name"
    proposed = caught.value.errors[0].message.split("; ")[1].split("'")[1]
    assert MODEL_NAME.fullmatch(proposed)
    assert not archive.exists()


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("openai-community/gpt2", "openai-community-gpt2"),
        ("MyModel", "mymodel"),
        ("gpt2", "gpt2"),
        ("é", "model"),
    ],
)
def test_a_legal_name_is_proposed(name: str, legal: str) -> None:
    assert model_name(name) == legal


async def test_what_is_no_checkpoint_is_refused(stores: Stores, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    for content in (b"", b"hello", b"\x1f\x8b\x08broken"):
        junk.write_bytes(content)
        with pytest.raises(InvalidInput) as caught:
            await stores.models.add_upload("tiny", junk, "junk.zip")
        assert caught.value.errors[0].field == "file"
    assert await stores.models.list() == []
    assert stores.blob_files() == set()


async def test_an_archive_beyond_the_limit_is_refused(stores: Stores, upload: Upload, tmp_path: Path) -> None:
    limited = dataclasses.replace(stores.settings, home=tmp_path / "small", max_archive_bytes=100)
    async with open_stores(limited) as small:
        with pytest.raises(TooLarge, match="at most 100"):
            await small.models.add_upload("tiny", upload("lm"), "lm.tar.gz")


async def test_versions_count_on_and_never_come_twice(stores: Stores, upload: Upload) -> None:
    for archive in ("lm", "other-lm"):
        await stores.models.add_upload("tiny", upload(archive), archive)
    await stores.models.delete_version("tiny", 2)
    again, new = await stores.models.add_upload("tiny", upload("other-lm"), "x")
    assert (again.version, new) == (3, True)
    await stores.models.delete("tiny")
    reborn, _ = await stores.models.add_upload("tiny", upload("lm"), "x")
    assert reborn.version == 4


async def test_aliases_follow_and_leave_with_their_version(stores: Stores, upload: Upload) -> None:
    models = stores.models
    await converted(stores, upload, "lm", "tiny")
    await converted(stores, upload, "other-lm", "tiny")
    assert (await models.get("tiny")).aliases == {"latest": 2}
    record = await models.update("tiny", description="two", aliases={"stable": 2})
    assert (record.description, record.aliases, record.kind) == ("two", {"latest": 2, "stable": 2}, Kind.LM)
    assert (await models.version("tiny", "stable")).version == 2
    await models.delete_version("tiny", "stable")
    assert (await models.get("tiny")).aliases == {"latest": 1}
    assert (await models.version("tiny", "latest")).version == 1
    with pytest.raises(NotFound, match="no alias 'stable'"):
        await models.version("tiny", "stable")
    await models.update("tiny", aliases={"mine": 1})
    assert (await models.update("tiny", aliases={"mine": None})).aliases == {"latest": 1}


async def test_a_list_takes_the_same_queries_for_any_number_of_models(stores: Stores, upload: Upload) -> None:
    async def listed() -> tuple[list[ModelRecord], int]:
        statements: list[str] = []

        def count(*given: Any) -> None:
            statements.append(given[2])

        async with stores.database.read() as connection:
            event.listen(connection.sync_connection, "before_cursor_execute", count)
            return await catalog.read_models(connection), len(statements)

    await converted(stores, upload, "lm", "tiny")
    alone, queries = await listed()
    assert [(record.name, record.versions) for record in alone] == [("tiny", (1,))]
    await stores.models.add_upload("tiny", upload("other-lm"), "x")
    await stores.models.update("tiny", aliases={"next": 2})
    await stores.models.add_upload("raw", upload("lm"), "x")
    await converted(stores, upload, "classifier", "head")
    several, again = await listed()
    assert again == queries
    assert [(record.name, record.kind, record.versions, record.aliases) for record in several] == [
        ("head", Kind.CLASSIFIER, (1,), {"latest": 1}),
        ("raw", None, (1,), {}),
        ("tiny", Kind.LM, (1, 2), {"latest": 1, "next": 2}),
    ]
    assert several == [await stores.models.get(record.name) for record in several]
    assert several == await stores.models.list()


@pytest.mark.parametrize("alias", ["latest", "7", "Bad", ""])
async def test_a_bad_alias_is_refused(stores: Stores, upload: Upload, alias: str) -> None:
    await stores.models.add_upload("tiny", upload("lm"), "x")
    with pytest.raises(InvalidInput) as caught:
        await stores.models.update("tiny", aliases={alias: 1})
    assert caught.value.errors[0].field == f"aliases.{alias}"


async def test_an_alias_of_a_missing_version_changes_nothing(stores: Stores, upload: Upload) -> None:
    await stores.models.add_upload("tiny", upload("lm"), "x")
    with pytest.raises(InvalidInput, match="no version 9"):
        await stores.models.update("tiny", description="new", aliases={"stable": 9})
    assert (await stores.models.get("tiny")).description == ""


async def test_what_is_not_there_is_not_found(stores: Stores, upload: Upload) -> None:
    await stores.models.add_upload("tiny", upload("lm"), "x")
    for name, version in (("other", 1), ("tiny", 2), ("tiny", "latest"), ("other", "latest"), ("tiny", "2")):
        with pytest.raises(NotFound) as raised:
            await stores.models.version(name, version)
        assert [error.field for error in raised.value.errors] == ["model" if name == "other" else "version"]
    for call in (stores.models.get, stores.models.delete):
        with pytest.raises(NotFound, match="'other'"):
            await call("other")


async def test_a_deployed_version_is_not_deleted(stores: Stores, upload: Upload) -> None:
    version, _ = await stores.models.add_upload("tiny", upload("lm"), "x")
    record = DeploymentRecord("d", "tiny", 1, "auto", Variant.INT8, DeploymentState.READY, 1, 100, now())
    await stores.deployments.add(record)
    with pytest.raises(Conflict, match="deployed"):
        await stores.models.delete_version("tiny", 1)
    with pytest.raises(Conflict, match="deployed"):
        await stores.models.delete("tiny")
    await stores.deployments.delete("d")
    await stores.models.delete("tiny")
    assert stores.blob_files() == set()
    assert version.model not in [record.name for record in await stores.models.list()]


async def test_a_version_of_another_kind_fails(stores: Stores, upload: Upload) -> None:
    await converted(stores, upload, "lm", "tiny")
    with pytest.raises(InvalidInput, match="kind classifier"):
        await converted(stores, upload, "classifier", "tiny")
    failed = await stores.models.version("tiny", 2)
    assert failed.state is VersionState.FAILED
    assert failed.error is not None


async def test_the_download_is_an_upload_again(stores: Stores, upload: Upload, tmp_path: Path) -> None:
    await converted(stores, upload, "lm", "tiny")
    original = await stores.models.version("tiny", 1)
    download = await stores.models.archive("tiny", 1)
    archive = tmp_path / download.filename
    archive.write_bytes(b"".join([chunk async for chunk in download.read()]))
    assert archive.stat().st_size == download.size
    with tarfile.open(archive) as tar:
        assert {member.name for member in tar} == {f"tiny/{path}" for path in original.files}
    copy, _ = await stores.models.add_upload("copy", archive, download.filename)
    copy = await stores.converter.convert(copy)
    assert copy.manifest is not None
    assert original.manifest is not None
    assert copy.manifest.variants == original.manifest.variants


async def test_an_artifact_that_lost_bytes_is_not_stored(
    stores: Stores, upload: Upload, tmp_path: Path
) -> None:
    await converted(stores, upload, "lm", "tiny")
    download = await stores.models.archive("tiny", 1)
    (tmp_path / "a.tar").write_bytes(b"".join([chunk async for chunk in download.read()]))
    (tmp_path / "into").mkdir()
    folder = unpack_archive(tmp_path / "a.tar", tmp_path / "into")
    version, _ = await stores.models.add_upload("tiny", upload("other-lm"), "x")
    before = stores.blob_files()
    tokenizer = folder / TOKENIZER_FILE
    for left in (tokenizer.read_bytes()[:-1], None):
        tokenizer.unlink()
        if left is not None:
            tokenizer.write_bytes(left)
        with pytest.raises(ServerFault, match=TOKENIZER_FILE):
            await stores.models.finish(version, Manifest.load(folder), folder)
    assert stores.blob_files() == before
    assert (await stores.models.version("tiny", 2)).state is VersionState.UPLOADED


async def test_a_version_that_is_not_ready_has_no_archive(stores: Stores, upload: Upload) -> None:
    await stores.models.add_upload("tiny", upload("lm"), "x")
    with pytest.raises(Conflict, match="uploaded, not ready"):
        await stores.models.archive("tiny", 1)


async def test_a_restart_takes_up_what_was_cut_off(stores: Stores, upload: Upload, tmp_path: Path) -> None:
    settings = dataclasses.replace(stores.settings, home=tmp_path / "other")
    async with open_stores(settings) as first:
        version, _ = await first.models.add_upload("tiny", upload("lm"), "x")
        await first.models.set_state(version, VersionState.CONVERTING)
    async with open_stores(settings) as second:
        assert (await second.models.version("tiny", 1)).state is VersionState.UPLOADED


async def test_a_blob_that_was_sent_before_becomes_a_version(
    stores: Stores, upload: Upload, tmp_path: Path
) -> None:
    first, _ = await stores.models.add_upload("tiny", upload("lm"), "x")
    second, new = await stores.models.add_blob("twin", first.archive_sha256)
    assert (second.model, second.archive_sha256, new) == ("twin", first.archive_sha256, True)
    assert await stores.models.add_blob("twin", first.archive_sha256) == (second, False)
    assert (await stores.converter.convert(second)).state is VersionState.READY
    with pytest.raises(NotFound, match="not stored"):
        await stores.models.add_blob("tiny", "0" * 64)
    with pytest.raises(InvalidInput, match="name"):
        await stores.models.add_blob("Bad Name", first.archive_sha256)
    junk = tmp_path / "junk"
    junk.write_bytes(b"no archive")
    sha256 = hashlib.sha256(b"no archive").hexdigest()
    await stores.blobs.put(junk, sha256)
    with pytest.raises(InvalidInput) as caught:
        await stores.models.add_blob("tiny", sha256)
    assert caught.value.errors[0].field == "blob"
    assert list(stores.settings.staging.iterdir()) == []
