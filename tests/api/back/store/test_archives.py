"""Downloads: sound, the same each time, and any range of them alone."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.back.store import archives
from api.back.store.archives import ArchiveDownload
from api.back.store.blobs import BlobStore, hash_file
from api.back.store.records import StoredFile, VersionRecord, VersionState, now

pytestmark = pytest.mark.anyio
GOLDEN = "470edf58d228324d"  # the sha256 of the whole begins so
BIG = archives.BLOCK * archives.BLOCKS_AT_ONCE
CONTENTS = {
    "manifest.json": b"{}",
    "empty": b"",
    "int8/model.onnx": bytes(range(256)) * (BIG // 256 + 1000),
    "exact": b"x" * 512,
    "a/" + "very-" * 30 + "long": b"name",
}


@pytest.fixture(scope="module")
async def download(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> ArchiveDownload:
    folder = tmp_path_factory.mktemp("blobs")
    blobs = BlobStore.open(folder / "store", None)
    files: dict[str, StoredFile] = {}
    for path, content in CONTENTS.items():
        trial = folder / "file"
        trial.write_bytes(content)
        files[path] = hash_file(trial)
        await blobs.put(trial, files[path].sha256)
    version = VersionRecord("tiny", 3, VersionState.READY, None, "", files, None, None, now())
    return ArchiveDownload(version, blobs)


@pytest.fixture(scope="module")
async def whole(download: ArchiveDownload) -> bytes:
    return await read(download, 0, None)


async def read(download: ArchiveDownload, start: int, end: int | None) -> bytes:
    return b"".join([chunk async for chunk in download.read(start, end)])


async def test_it_unpacks_to_what_was_stored(download: ArchiveDownload, whole: bytes) -> None:
    assert len(whole) == download.size
    assert download.filename == "tiny-3.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(whole))) as tar:
        found = {member.name: tar.extractfile(member) for member in tar}
    assert {f"tiny/{path}" for path in CONTENTS} == set(found)
    with tarfile.open(fileobj=io.BytesIO(whole), mode="r:gz") as tar:
        for path, content in CONTENTS.items():
            file = tar.extractfile(f"tiny/{path}")
            assert file is not None
            assert file.read() == content


async def test_the_same_artifact_gives_the_same_bytes(download: ArchiveDownload, whole: bytes) -> None:
    assert await read(download, 0, download.size) == whole
    digest = hashlib.sha256(whole).hexdigest()
    # The bytes belong to the ETag: where they change, FORMAT must.
    assert (archives.FORMAT, digest[:16]) == ("tar.gz stored 1", GOLDEN)


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (5, 15), (10, 11), (0, 0), (BIG - 3, BIG + 2000), (-9, None), (-8, -7), (-1, None)],
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
