"""Archives from anywhere: what is unpacked, and what is refused with which words."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from export.archive import pack_folder, skipped_note, unpack_archive, validate_archive
from export.errors import ArchiveError
from export.members import ArchiveLimits
from tests.export.archives import (
    SOUND,
    encrypted_zip,
    lying_zip,
    overlapping_zip,
    packed_zip,
    patched_zip,
    sparse_tar,
    special,
    stored_zip,
    tar_of,
    tar_of_headers,
    tar_with_huge_header,
    zip_link,
    zip_of,
    zip_of_no_name,
    zip_that_begins_before_itself,
    zip_twice,
    zip_with_huge_directory,
)

LIMITS = ArchiveLimits(max_members=20, max_unpacked_bytes=100_000, max_depth=4)
# As long as a safetensors header may be that begins with the bytes of a pickle.
LOOKS_LIKE_PICKLE = struct.pack("<Q", 0x280) + b'{"a"' + bytes(700)


PICKLED = {name: data for name, data in SOUND.items() if not name.endswith(".safetensors")}
REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "an empty file"),
    "text": (b"hello there" * 100, "not a sound"),
    "only gzip": (gzip.compress(b"hello"), "not a sound"),
    "gzip of zeros": (gzip.compress(bytes(5000)), "no checkpoint"),
    "truncated gzip": (tar_of(SOUND)[:-40], "not a sound"),
    "gzip with a wrong checksum": (tar_of(SOUND)[:-8] + bytes(8), "not a sound"),
    "truncated tar": (tar_of(SOUND, mode="w")[:1100], "not a sound"),
    "truncated zip": (zip_of(SOUND)[:-30], "not a sound"),
    "zip with a wrong checksum": (stored_zip().replace(b"checked", b"chucked"), "not a sound"),
    "zip of an unknown method": (patched_zip(8, 10, 99), "packed by method 99"),
    "zip of a later version": (patched_zip(4, 6, 99), "not a sound"),
    "patched zip": (patched_zip(6, 8, 0x20), "not a sound"),
    "huge zip directory": (zip_with_huge_directory(), "a zip directory of"),
    "zip packed by bzip2": (packed_zip(zipfile.ZIP_BZIP2), "packed by method 12"),
    "zip packed by lzma": (packed_zip(zipfile.ZIP_LZMA), "packed by method 14"),
    "zip of members over each other": (overlapping_zip(), "bytes in a zip of"),
    "zip that begins before itself": (zip_that_begins_before_itself(), "not a sound"),
    "zip of no name": (zip_of_no_name(), "a bad name (empty"),
    "sparse file": (sparse_tar("header"), "a sparse file"),
    "sparse file by its pax header": (sparse_tar("pax"), "a sparse file"),
    "headers without end": (tar_of_headers(1000), "tar headers of 65898 bytes before a member"),
    "encrypted zip": (encrypted_zip(), "encrypted"),
    "no checkpoint": (tar_of({"readme.md": b"hi"}), "no checkpoint"),
    "no checkpoint but a hidden one": (tar_of({"__MACOSX/config.json": b"{}"}), "no checkpoint"),
    "two checkpoints": (
        tar_of({**SOUND, "n/config.json": b"{}"}),
        "2 checkpoints or artifacts, but one is needed: m, n",
    ),
    "checkpoint and artifact": (zip_of({**SOUND, "a/manifest.json": b"{}"}), "2 checkpoints"),
    "parent path": (tar_of({"m/../../evil": b""}), "a path with .."),
    "parent path in a zip": (zip_of({"../evil": b"x"}), "a path with .."),
    "absolute path": (tar_of({"/etc/evil": b""}), "an absolute path"),
    "absolute path in a zip": (zip_of({"/evil": b""}), "an absolute path"),
    "drive letter": (tar_of({"C:evil": b""}), "an absolute path"),
    "backslash": (tar_of({"m\\evil": b""}), "a bad name"),
    "long name": (tar_of({"m/" + "x" * 600: b""}), "a bad name"),
    "long file name": (tar_of({"m/" + "x" * 300: b""}), "a bad name"),
    "file in place of the folder": (tar_of({".": b"x", **SOUND}), "a file in place of"),
    "file in place of a folder": (tar_of({**SOUND, "m": b"x"}), "there twice"),
    "too deep": (tar_of({"a/b/c/d/e": b""}), "deeper than 4"),
    "symbolic link": (tar_of(SOUND, special("m/link", tarfile.SYMTYPE)), "a link"),
    "hard link": (tar_of(SOUND, special("m/link", tarfile.LNKTYPE)), "a link"),
    "link in a zip": (zip_of(SOUND, zip_link("m/link")), "a link"),
    "device": (tar_of(SOUND, special("m/null", tarfile.CHRTYPE)), "a device"),
    "pipe": (tar_of(SOUND, special("m/pipe", tarfile.FIFOTYPE)), "a device"),
    "name twice": (tar_of(SOUND, tarfile.TarInfo("m/config.json")), "there twice"),
    "name twice, written differently": (tar_of({**SOUND, "./m//config.json": b"{}"}), "there twice"),
    "name twice in a zip": (zip_twice(), "there twice"),
    "below a file": (tar_of({**SOUND, "m/config.json/x": b""}), "below m/config.json, which is a file"),
    "nothing but a pickle": (tar_of({**PICKLED, "m/pytorch_model.bin": b"x"}), "a pickle: only safetensors"),
    "nothing but a pickle in a zip": (zip_of({**PICKLED, "m/model.PT": b"x"}), "a pickle: only safetensors"),
    "an adapter as a pickle": (
        tar_of({"m/adapter_config.json": b"{}", "m/config.json": b"{}", "m/adapter_model.bin": b"x"}),
        "save the adapter as safetensors",
    ),
    "xz": (lzma.compress(tar_of(SOUND, mode="w")), "packed by xz; only gzip, zstd and zip are read"),
    "bzip2": (bz2.compress(tar_of(SOUND, mode="w")), "packed by bzip2; only"),
    "damaged zstd": (zstandard.compress(tar_of(SOUND, mode="w"))[:60] + bytes(30), "not a sound"),
    "bomb of zstd": (
        zstandard.compress(tar_of({"m/config.json": bytes(5_000_000)}, mode="w")),
        "limit of 100000",
    ),
    "parent path of Windows": (zip_of({"..\\evil": b"x"}), "a path with .."),
    "pickle by content": (tar_of({**SOUND, "m/notes.txt": pickle.dumps([1])}), "a pickle by its content"),
    "torch file by content": (
        tar_of({**SOUND, "m/notes.txt": zip_of({"a": b"b"})}),
        "a pickle by its content",
    ),
    "too many members": (tar_of({f"m/{number}": b"" for number in range(21)}), "more than 20 members"),
    "too many folders": (
        tar_of(SOUND, *[special("m", tarfile.DIRTYPE) for _ in range(20)]),
        "more than 20 members",
    ),
    "too many members in a zip": (
        zip_of({f"m/{number}": b"" for number in range(21)}),
        "more than 20 members",
    ),
    "too large": (tar_of({"m/config.json": bytes(60_000), "m/x": bytes(60_000)}), "limit of 100000 bytes"),
    "bomb": (tar_of({"m/config.json": bytes(5_000_000)}), "limit of 100000 bytes"),
    "zip bomb": (zip_of({"m/config.json": bytes(5_000_000)}), "limit of 100000 bytes"),
    "zip that lies about sizes": (lying_zip(), "not a sound"),
    "huge tar header": (tar_with_huge_header(), "tar headers of 4294967808 bytes"),
    "bomb after the end": (gzip.compress(tar_of(SOUND, mode="w") + bytes(5_000_000)), "limit of 100000"),
}


@pytest.fixture
def archive(tmp_path: Path) -> Callable[[bytes], Path]:
    def make(data: bytes) -> Path:
        path = tmp_path / "upload"
        path.write_bytes(data)
        return path

    return make


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(data: bytes, message: str, archive: Callable[[bytes], Path], tmp_path: Path) -> None:
    path = archive(data)
    into = tmp_path / "sub" / "into"
    into.mkdir(parents=True)
    for work in (lambda: validate_archive(path, LIMITS), lambda: unpack_archive(path, into, LIMITS)):
        with pytest.raises(ArchiveError) as caught:
            work()
        assert message in caught.value.message
        assert str(tmp_path) not in caught.value.message
    assert [child.name for child in tmp_path.iterdir() if child.name not in ("upload", "sub")] == []
    assert [child.name for child in (tmp_path / "sub").iterdir()] == ["into"]
    assert not any(child.is_symlink() for child in into.rglob("*"))


@pytest.mark.parametrize(
    "data",
    [
        tar_of(SOUND),
        tar_of(SOUND, mode="w"),
        zip_of(SOUND),
        tar_of(SOUND, special("m", tarfile.DIRTYPE)),
        zstandard.compress(tar_of(SOUND, mode="w")),
        zip_of({name.replace("/", "\\"): data for name, data in SOUND.items()}),
    ],
    ids=["tar.gz", "tar", "zip", "folder after its files", "tar.zst", "zip of PowerShell"],
)
def test_unpacks_by_content(data: bytes, archive: Callable[[bytes], Path], tmp_path: Path) -> None:
    path = archive(data)
    validate_archive(path, LIMITS)
    into = tmp_path / "into"
    into.mkdir()
    root = unpack_archive(path, into, LIMITS)
    assert root == into / "m"
    assert {f"m/{child.name}": child.read_bytes() for child in root.iterdir()} == SOUND


LEFT = {
    "m/training_args.bin": b"\x80\x02}q\x00.",
    "m/optimizer.pt": b"PK\x03\x04",
    "m/.git/config": b"[core]",
    "m/.git/HEAD": b"ref",
    "m/README.md": b"# m",
    "m/LICENSE": b"Apache",
    "m/runs/events.out": b"x",
}


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_what_no_export_reads_is_skipped(
    pack: Callable[[dict[str, bytes]], bytes], archive: Callable[[bytes], Path], tmp_path: Path
) -> None:
    into = tmp_path / "into"
    into.mkdir()
    skipped: list[str] = []
    root = unpack_archive(archive(pack({**LEFT, **SOUND})), into, LIMITS, skipped.append)
    assert {f"m/{path.relative_to(root)}": path.read_bytes() for path in root.rglob("*")} == SOUND
    assert sorted(skipped) == sorted(LEFT)
    names = "m/training_args.bin, m/optimizer.pt, m/.git, m/runs/events.out"
    assert skipped_note(skipped) == (f"skipped, because no export reads them: {names}",)
    assert skipped_note(["README.md", "LICENSE.txt", ".gitattributes"]) == ()
    (note,) = skipped_note([f"{number}.pt" for number in range(20)])
    assert note.endswith("7.pt and 12 more")


def test_only_what_an_export_reads_is_packed(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (folder / "checkpoint-500").mkdir(parents=True)
    (folder / ".git").mkdir()
    needed = ("config.json", "merges.txt", "model.safetensors", "tokenizer.model")
    for name in (*needed, "scheduler.pt", "pytorch_model.bin", "rust_model.ot", "checkpoint-500/config.json"):
        (folder / name).write_bytes(b"{}")
    assert pack_folder(folder, tmp_path / "m.tar.gz") == [
        ".git", "checkpoint-500", "pytorch_model.bin", "rust_model.ot", "scheduler.pt",
    ]  # fmt: skip
    with tarfile.open(tmp_path / "m.tar.gz") as packed:
        assert packed.getnames() == sorted(needed)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ArchiveError, match=r"pytorch_model\.bin': a pickle: only safetensors .* convert it"):
        pack_folder(folder, tmp_path / "n.tar.gz")


def test_root_may_be_the_archive_itself(archive: Callable[[bytes], Path], tmp_path: Path) -> None:
    path = archive(tar_of({"./manifest.json": b"{}", "./fp32/model.onnx": b""}))
    validate_archive(path)
    assert unpack_archive(path, tmp_path) == tmp_path
    assert (tmp_path / "fp32" / "model.onnx").read_bytes() == b""


def test_safetensors_that_begin_like_a_pickle_pass(archive: Callable[[bytes], Path], tmp_path: Path) -> None:
    path = archive(tar_of({**SOUND, "m/model.safetensors": LOOKS_LIKE_PICKLE}))
    validate_archive(path, LIMITS)
    root = unpack_archive(path, tmp_path, LIMITS)
    assert (root / "model.safetensors").read_bytes() == LOOKS_LIKE_PICKLE


def test_packing_is_deterministic_and_comes_back(tmp_path: Path) -> None:
    for name, data in SOUND.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    pack_folder(tmp_path / "folder", tmp_path / "one.tar.gz")
    (tmp_path / "folder" / "m" / "config.json").touch()
    pack_folder(tmp_path / "folder", tmp_path / "another-name.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "another-name.tar.gz").read_bytes()
    (tmp_path / "into").mkdir()
    root = unpack_archive(tmp_path / "one.tar.gz", tmp_path / "into")
    assert {f"m/{child.name}": child.read_bytes() for child in root.iterdir()} == SOUND


def test_a_bomb_is_known_before_it_fills_the_disk(archive: Callable[[bytes], Path], tmp_path: Path) -> None:
    path = archive(zip_of({"config.json": bytes(80 << 20)}))
    with pytest.raises(ArchiveError, match=r"67108864 bytes, too many for an archive of \d+"):
        unpack_archive(path, tmp_path / "into")
