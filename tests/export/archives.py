"""Archives as bytes: sound ones and malicious ones."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import zipfile

SOUND = {"m/config.json": b"{}", "m/model.safetensors": b"\x10" + bytes(99), "m/tokenizer.json": b"{}"}
NOISE = hashlib.shake_128(b"noise").digest(2000)


def tar_of(files: dict[str, bytes], *extra: tarfile.TarInfo, mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra:
            tar.addfile(info)
    return buffer.getvalue()


def zip_of(files: dict[str, bytes], *extra: zipfile.ZipInfo) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        for info in extra:
            archive.writestr(info, "config.json")
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "config.json") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def zip_twice() -> bytes:
    """Two members of one name; zipfile warns of them when it writes, so one is renamed afterwards."""
    return zip_of({**SOUND, "m/a.json": b"1", "m/b.json": b"2"}).replace(b"m/b.json", b"m/a.json")


def stored_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", "checked")
    return buffer.getvalue()


def encrypted_zip() -> bytes:
    """The flag of encryption set in both headers of the first member."""
    data = bytearray(zip_of(SOUND))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def lying_zip() -> bytes:
    """A member of 200,000 bytes whose headers declare 10."""
    data = zip_of({"config.json": bytes(200_000)})
    return data.replace(struct.pack("<L", 200_000), struct.pack("<L", 10))


def tar_with_huge_header() -> bytes:
    info = special("x", tarfile.XHDTYPE)
    info.size = 1 << 32
    return info.tobuf()


def tar_of_headers(count: int) -> bytes:
    """Headers that each describe the member after them, which is another header."""
    record = b"11 path=ab\n"
    header = special("x", tarfile.XHDTYPE)
    header.size = len(record)
    return count * (header.tobuf() + record.ljust(tarfile.BLOCKSIZE, b"\0")) + tar_of(SOUND, mode="w")


def patched_zip(local: int, central: int, value: int) -> bytes:
    """Overwrite a 16-bit field in both headers of every member; the arguments are its offsets."""
    data = bytearray(zip_of(SOUND))
    for mark, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        place = data.find(mark)
        while place >= 0:
            data[place + offset : place + offset + 2] = struct.pack("<H", value)
            place = data.find(mark, place + 4)
    return bytes(data)


def zip_with_huge_directory(size: int = 2 << 20) -> bytes:
    """Its end says that all the bytes before it are the directory."""
    directory = zip_of(SOUND)[:-22].ljust(size, b"\0")
    return directory + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 3, 3, len(directory), 0, 0)


def packed_zip(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("config.json", bytes(10_000))
    return buffer.getvalue()


def overlapping_zip(names: int = 15) -> bytes:
    """All names refer to the same member, as in archive bombs without a high ratio."""
    files = {f"m/{number:02}.json": b"" for number in range(names)} | {"m/large": NOISE}
    data = bytearray(zip_of(files))
    large = data.index(b"PK\x03\x04", data.index(b"m/large") - 40)
    place = data.find(b"PK\x01\x02")
    entry = data[data.rindex(b"PK\x01\x02") :]
    while place >= 0:
        data[place + 10 : place + 12], data[place + 16 : place + 28] = entry[10:12], entry[16:28]
        data[place + 42 : place + 46] = struct.pack("<L", large)
        place = data.find(b"PK\x01\x02", place + 4)
    return bytes(data)


def zip_that_begins_before_itself() -> bytes:
    """Its end gives the directory one byte too many."""
    data = bytearray(zip_of(SOUND))
    place = data.rindex(b"PK\x05\x06") + 16
    data[place : place + 4] = struct.pack("<L", struct.unpack("<L", data[place : place + 4])[0] + 1)
    return bytes(data)


def zip_of_no_name() -> bytes:
    """A member whose name begins with NUL, where zipfile ends it."""
    return zip_of({"x/config.json": b"{}"}).replace(b"x/config.json", b"\0/config.json")


def sparse_tar(kind: str) -> bytes:
    if kind == "header":
        return special("m/config.json", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    info = tarfile.TarInfo("m/model.safetensors")
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "m/model.safetensors",
    }
    numbers = b"100000000\n" + b"0\n" * 255
    info.size = len(numbers)
    return info.tobuf(tarfile.PAX_FORMAT) + numbers.ljust(1024, b"\0")
