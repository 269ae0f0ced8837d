"""Archives that must not pass, each with a part of its message; none is small when it is unpacked."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable

from tests.export import archives
from tests.export.archives import NOISE, special, tar_of, zip_of


def bomb_of_zip() -> bytes:
    return zip_of({"m/config.json": bytes(80 << 20)})


def bomb_of_tar() -> bytes:
    data = io.BytesIO()
    with gzip.GzipFile(fileobj=data, mode="wb", compresslevel=9) as packer:
        info = tarfile.TarInfo("m/config.json")
        info.size = 90 << 20
        packer.write(info.tobuf())
        for _ in range(90):
            packer.write(bytes(1 << 20))
    return data.getvalue()


def bomb_behind_the_end() -> bytes:
    """Nothing but zeros follow, which no member declares."""
    return gzip.compress(tar_of(archives.SOUND, mode="w") + bytes(95 << 20))


def tar_of_a_huge_member() -> bytes:
    info = tarfile.TarInfo("m/config.json")
    info.size = 1 << 40
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240)


def zip_in_tar() -> bytes:
    return tar_of({**archives.SOUND, "m/more.data": zip_of({"config.json": b"{}"})})


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "archive empty": (lambda: b"", "archive: an empty file"),
    "archive of text": (lambda: b"hello there" * 100, "archive (invalid header)"),
    "only gzip": (lambda: gzip.compress(b"hello"), "archive (truncated header)"),
    "gzip of zeros": (
        lambda: gzip.compress(bytes(5000)),
        "and no artifact (manifest.json): nothing at all",
    ),
    "gzip truncated": (lambda: tar_of(archives.SOUND)[:-40], "the gzip stream is cut off before its end"),
    "gzip with a wrong checksum": (lambda: tar_of(archives.SOUND)[:-8] + bytes(8), "incorrect data check"),
    "tar truncated": (lambda: tar_of(archives.SOUND, mode="w")[:1600], "archive (unexpected end of data)"),
    "tar of a huge member": (tar_of_a_huge_member, "67108864 bytes, too many for an archive of 10752"),
    "huge tar header": (archives.tar_with_huge_header, "tar headers of 4294967808 bytes before"),
    "headers without end": (
        lambda: archives.tar_of_headers(1000),
        "tar headers of 65898 bytes before a member, but at most 65536",
    ),
    "sparse file": (lambda: archives.sparse_tar("header"), "archive member 'm/config.json': a sparse file"),
    "sparse file by its pax header": (
        lambda: archives.sparse_tar("pax"),
        "archive member 'm/model.safetensors': a sparse file",
    ),
    "zip truncated": (lambda: zip_of(archives.SOUND)[:-30], "archive (File is not a zip file)"),
    "zip with a wrong checksum": (
        lambda: archives.stored_zip().replace(b"checked", b"chucked"),
        "archive (Bad CRC-32 for file",
    ),
    "zip of a later version": (lambda: archives.patched_zip(4, 6, 99), "archive (zip file version 9.9)"),
    "zip packed by bzip2": (
        lambda: archives.packed_zip(zipfile.ZIP_BZIP2),
        "'config.json': packed by method 12",
    ),
    "zip packed by lzma": (
        lambda: archives.packed_zip(zipfile.ZIP_LZMA),
        "'config.json': packed by method 14",
    ),
    "zip encrypted": (archives.encrypted_zip, "archive member 'm/config.json': encrypted"),
    "zip of members over each other": (lambda: archives.overlapping_zip(500), "bytes in a zip of"),
    "zip that begins before itself": (archives.zip_that_begins_before_itself, "archive (byte -1 of"),
    "zip of no name": (archives.zip_of_no_name, "archive member '': a bad name (empty"),
    "huge zip directory": (
        lambda: archives.zip_with_huge_directory(5 << 20),
        "a zip directory of 5242880 bytes, but at most",
    ),
    "zip bomb": (bomb_of_zip, "archive: unpacks to more than 67108864 bytes, too many for an archive of 8"),
    "tar bomb": (bomb_of_tar, "archive: unpacks to more than 67108864 bytes, too many for an archive of 9"),
    "bomb behind the end": (bomb_behind_the_end, "archive: unpacks to more than 67108864 bytes, too many"),
    "parent path": (lambda: tar_of({"m/../../evil": b""}), "archive member 'm/../../evil': a path with .."),
    "parent path in a zip": (lambda: zip_of({"../evil": b"x"}), "archive member '../evil': a path with .."),
    "absolute path": (lambda: tar_of({"/etc/evil": b""}), "archive member '/etc/evil': an absolute path"),
    "drive letter": (lambda: tar_of({"C:evil": b""}), "archive member 'C:evil': an absolute path"),
    "backslash": (lambda: tar_of({"m\\evil": b""}), "evil': a bad name (empty, longer than 512"),
    "long name": (lambda: tar_of({"m/" + "x" * 600: b""}), "xxx': a bad name (empty, longer than 512"),
    "long part": (lambda: tar_of({"m/" + "x" * 300: b""}), "a bad name (a part longer than 255 bytes)"),
    "deep folders": (lambda: tar_of({"a/" * 200 + "b": b""}), "': deeper than 8 folders"),
    "symbolic link": (
        lambda: tar_of({}, special("m/link", tarfile.SYMTYPE)),
        "archive member 'm/link': a link",
    ),
    "hard link": (lambda: tar_of({}, special("m/hard", tarfile.LNKTYPE)), "archive member 'm/hard': a link"),
    "link in a zip": (lambda: zip_of({}, archives.zip_link("m/zipped")), "archive member 'm/zipped': a link"),
    "device": (
        lambda: tar_of({}, special("m/null", tarfile.CHRTYPE)),
        "archive member 'm/null': a device, pipe",
    ),
    "pipe": (
        lambda: tar_of({}, special("m/pipe", tarfile.FIFOTYPE)),
        "archive member 'm/pipe': a device, pipe",
    ),
    "name twice": (lambda: tar_of({"m/a": b"", "./m//a": b""}), "archive member './m//a': there twice"),
    "name twice in a zip": (archives.zip_twice, "archive member 'm/a.json': there twice"),
    "below a file": (
        lambda: tar_of({"m": b"", "m/x": b""}),
        "archive member 'm/x': below m, which is a file",
    ),
    "file in place of a folder": (lambda: tar_of({"m/x": b"", "m": b""}), "archive member 'm': there twice"),
    "file in place of the archive": (
        lambda: tar_of({".": b"x"}),
        "a file in place of the archive's own folder",
    ),
    "only a pickle": (
        lambda: tar_of({"m/config.json": b"{}", "m/pytorch_model.bin": b"x"}),
        "pytorch_model.bin': a pickle: only",
    ),
    "pickle by content": (
        lambda: tar_of({"m/notes.txt": pickle.dumps([1])}),
        "'m/notes.txt': a pickle by its content",
    ),
    "zip in a tar": (zip_in_tar, "archive member 'm/more.data': a pickle by its content"),
    "many members": (
        lambda: tar_of({f"m/{number}": b"" for number in range(1001)}),
        "more than 1000 members",
    ),
    "no checkpoint": (lambda: zip_of({"readme.md": NOISE}), "and no artifact (manifest.json): readme.md"),
    "two checkpoints": (
        lambda: tar_of({"m/config.json": b"{}", "n\n/config.json": b"{}"}),
        "holds 2 checkpoints or artifacts, but one is needed: m, n\\n",
    ),
    "artifact of nothing": (lambda: zip_of({"m/manifest.json": b"{}"}), "manifest.name: missing"),
}
