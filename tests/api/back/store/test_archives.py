"""Downloads: sound, the same each time, and any range of them alone."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.back.settings import BackSettings
from api.back.store import archives
from api.back.store.archives import ArchiveDownload
from api.back.store.blobs import BlobStore
from api.back.store.records import StoredFile, VersionRecord, VersionState, now
from export.files import hash_file
from tests.api.back.stores import open_stores

pytestmark = pytest.mark.anyio
GOLDEN = "dcb52d3fcb69e3a7"  # the sha256 of the whole begins so
BIG = archives.CHUNK
CONTENTS = {
    "manifest.json": b"{}",
    "empty": b"",
    "int8/model.onnx": bytes(range(256)) * (BIG // 256 + 1000),
    "exact": b"x" * 512,
    "a/" + "very-" * 30 + "long": b"name",
}


@pytest.fixture(scope="module")
async def download(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[ArchiveDownload]:
    settings = BackSettings(home=tmp_path_factory.mktemp("blobs") / "home")
    async with open_stores(settings) as stores:
        yield await _stored(stores.blobs, settings.home)


async def _stored(blobs: BlobStore, folder: Path) -> ArchiveDownload:
    files: dict[str, StoredFile] = {}
    for path, content in CONTENTS.items():
        trial = folder / "file"
        trial.write_bytes(content)
        size, sha256 = hash_file(trial)
        files[path] = StoredFile(sha256, size)
        await blobs.put(trial, sha256)
    version = VersionRecord("tiny", 3, VersionState.READY, None, "", files, None, None, now())
    return ArchiveDownload(version, blobs)


@pytest.fixture(scope="module")
async def whole(download: ArchiveDownload) -> bytes:
    return await read(download, 0, None)


async def read(download: ArchiveDownload, start: int, end: int | None) -> bytes:
    return b"".join([chunk async for chunk in download.read(start, end)])


async def test_it_unpacks_to_what_was_stored(download: ArchiveDownload, whole: bytes) -> None:
    assert len(whole) == download.size
    assert download.filename == "tiny-3.tar"
    with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as tar:
        assert {member.name for member in tar} == {f"tiny/{path}" for path in CONTENTS}
        for path, content in CONTENTS.items():
            file = tar.extractfile(f"tiny/{path}")
            assert file is not None
            assert file.read() == content


async def test_the_same_artifact_gives_the_same_bytes(download: ArchiveDownload, whole: bytes) -> None:
    assert await read(download, 0, download.size) == whole
    digest = hashlib.sha256(whole).hexdigest()
    # The bytes belong to the ETag: where they change, FORMAT must.
    assert (archives.FORMAT, digest[:16]) == ("tar 1", GOLDEN)


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (511, 513), (1020, 1030), (0, 0), (BIG - 3, BIG + 2000), (-1030, None), (-1024, -1), (-1, None)],
)
async def test_a_range_is_the_same_part(
    download: ArchiveDownload, whole: bytes, start: int, end: int | None
) -> None:
    low = start % download.size if start < 0 else start
    high = download.size if end is None else end % download.size if end < 0 else end
    assert await read(download, low, high) == whole[low:high]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_range_is_the_same_part(download: ArchiveDownload, whole: bytes, data: st.DataObject) -> None:
    positions = st.integers(0, download.size)
    low, high = sorted((data.draw(positions), data.draw(positions)))
    assert asyncio.run(read(download, low, high)) == whole[low:high]
