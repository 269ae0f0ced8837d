"""The reader of tar archives beside `tarfile` and beside the programs that people pack with."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.archive import unpack_archive, validate_archive
from export.errors import ArchiveError
from export.members import ArchiveLimits
from export.tar import BLOCK, Kind, read_tar
from tests.export.archives import special

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "m/" + "/".join(["folder" * 10] * 3)
FILES = {
    "m/config.json": b"{}",
    "./n/empty": b"",
    "m/one block": bytes(range(256)) * 2,
    "m/one byte more=": b"\xff" * 513,
    "m/é/日本.json": b"text",
    "m/" + "x" * 98: b"a name of 100 bytes",
    f"{LONG}/file.json": b"in a long folder",
}
FIELDS = ((0, 100), (124, 136), (156, 157), (157, 257))  # of a header: name, size, type, target of a link
PREFIX = (345, 500)  # of a name; tarfile reads it in headers of GNU as well, which have no prefix
Tree = dict[str, bytes | None]  # None: a folder


def read(data: bytes) -> Tree:
    found: Tree = {}
    for member in read_tar(io.BytesIO(data)):
        if member.kind not in (Kind.FILE, Kind.FOLDER):
            raise ValueError(member.kind.value)
        content = member.data.read(member.size + 1) if member.kind is Kind.FILE else None
        found[str(PurePosixPath(member.name))] = content
    return found


def read_by_tarfile(data: bytes) -> Tree:
    found: Tree = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for info in tar:
            content = tar.extractfile(info) if info.isreg() else None
            assert content or info.isdir()
            found[str(PurePosixPath(info.name))] = content.read() if content else None
    return found


def packed(files: dict[str, bytes], kind: int = tarfile.PAX_FORMAT, **fields: object) -> bytes:
    """By `tarfile`; `fields` are set in each header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))
        tar.addfile(special("folder/", tarfile.DIRTYPE))
    return buffer.getvalue()


def signed(header: bytes, *, as_signed: bool = False) -> bytes:
    """The header with its checksum."""
    summed = header[:148] + b" " * 8 + header[156:]
    total = sum(memoryview(summed).cast("b")) if as_signed else sum(summed)
    return summed[:148] + b"%06o\0 " % total + summed[156:]


def edited(start: int, value: bytes, header: bytes | None = None) -> bytes:
    """An archive of one empty file, with `value` at `start` of its header."""
    data = header or special("m/config.json", tarfile.REGTYPE, "").tobuf(tarfile.USTAR_FORMAT)
    return signed(data[:start] + value + data[start + len(value) :]) + bytes(1024)


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE, name: str = "m/config.json") -> bytes:
    """A pax header as it is given, and the file that it describes."""
    info = special("pax", kind, "")
    info.size = len(records)
    header = info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % BLOCK)
    return header + special(name, tarfile.REGTYPE, "").tobuf(tarfile.USTAR_FORMAT) + bytes(1024)


@pytest.mark.parametrize("kind", FORMATS.values(), ids=FORMATS)
def test_reads_what_tarfile_writes(kind: int) -> None:
    data = packed(FILES, kind, uname="jürgen", gname="users")
    assert read(data) == read_by_tarfile(data)
    assert read(data) == {str(PurePosixPath(name)): content for name, content in FILES.items()} | {
        "folder": None
    }


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("pax", {"mtime": 1_700_000_000.25}),
        ("pax", {"mtime": -3.5, "uid": 10**9, "gid": 10**9}),
        ("gnu", {"mtime": -3, "uid": 10**9}),
        ("gnu", {"mtime": 1 << 40}),
        ("pax", {"pax_headers": {"LIBARCHIVE.creationtime": "1700000000.1", "SCHILY.ino": "7"}}),
        ("pax", {"pax_headers": {"comment": "two\nlines, 12 of=them\n"}}),
        ("gnu", {"type": tarfile.CONTTYPE}),
        ("gnu", {"type": tarfile.AREGTYPE}),
    ],
)
def test_other_fields_do_not_matter(kind: str, fields: dict[str, object]) -> None:
    data = packed(FILES, FORMATS[kind], **fields)
    assert read(data) == read_by_tarfile(data)
    assert len(read(data)) == len(FILES) + 1


_names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=200)


@settings(max_examples=100, deadline=None)
@given(
    files=st.dictionaries(_names, st.binary(max_size=1100), max_size=5),
    kind=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_reads_any_files(files: dict[str, bytes], kind: int) -> None:
    data = packed(files, kind)
    assert read(data) == read_by_tarfile(data)


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def gnu_tar(kind: str) -> list[str]:
    return [tool("tar"), "-c", f"--format={kind}", "--sort=name", "-C"]


def bsdtar(kind: str) -> list[str]:
    return [tool("bsdtar"), "-c", f"--format={kind}", "-C"]


@pytest.mark.parametrize("program", [gnu_tar, bsdtar])
@pytest.mark.parametrize("kind", ["v7", "ustar", "oldgnu", "gnu", "gnutar", "posix", "pax"])
def test_reads_what_programs_write(program: Callable[[str], list[str]], kind: str, tmp_path: Path) -> None:
    if kind in (("gnutar",) if program is gnu_tar else ("oldgnu", "gnu", "posix")):
        pytest.skip("a format of the other program")
    expected: Tree = {".": None}
    for name, content in FILES.items():
        if kind == "v7" and len(name) > 90:  # it holds no longer ones
            continue
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        relative = PurePosixPath(name)
        expected |= {str(relative): content} | {str(parent): None for parent in relative.parents}
    run = subprocess.run([*program(kind), str(tmp_path), "."], capture_output=True, check=True, timeout=60)
    assert read(run.stdout) == expected


def test_reads_what_git_writes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    identity = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "x"]):
        subprocess.run([tool("git"), *command], cwd=tmp_path, check=True, timeout=60)
    archive = [tool("git"), "archive", "--format=tar", "--prefix=m/", "HEAD"]
    data = subprocess.run(archive, cwd=tmp_path, capture_output=True, check=True, timeout=60).stdout
    assert data[156:157] == tarfile.XGLTYPE
    assert read(data) == {"m": None, "m/config.json": b"{}"}


def test_names_that_are_no_utf_8() -> None:
    for data in (edited(0, b"\xff"), pax(b"10 path=\xff\n"), pax(b"21 hdrcharset=BINARY\n10 path=\xff\n")):
        ((name, content),) = read(data).items()
        assert name.startswith("\udcff")
        assert content == b""
        assert read(data) == read_by_tarfile(data)


def test_a_checksum_of_signed_bytes() -> None:
    header = special("m/é", tarfile.REGTYPE, "").tobuf(tarfile.GNU_FORMAT, "utf-8")
    data = signed(header, as_signed=True) + bytes(1024)
    assert signed(header) != data[:BLOCK]
    assert read(data) == read_by_tarfile(data) == {"m/é": b""}


def test_folders_of_unix_v7() -> None:
    header = special("m/", tarfile.AREGTYPE, "").tobuf(tarfile.USTAR_FORMAT)
    assert read(edited(257, bytes(8), header)) == {"m": None}


def test_times_of_gnu_tar_are_no_prefix() -> None:
    header = special("m/config.json", tarfile.REGTYPE, "").tobuf(tarfile.GNU_FORMAT)
    assert read(edited(345, b"14524770000\0", header)) == {"m/config.json": b""}


def test_two_headers_may_give_one_name() -> None:
    long = special("././@LongLink", tarfile.GNUTYPE_LONGNAME, "")
    long.size = 4
    header = long.tobuf(tarfile.GNU_FORMAT) + b"m/a\0".ljust(BLOCK, b"\0")
    assert read(header + pax(b"12 path=m/a\n")) == {"m/a": b""}
    with pytest.raises(ValueError, match="two names"):
        read(header + pax(b"12 path=m/b\n"))


def test_a_caller_need_not_read_the_content() -> None:
    data = packed(FILES)
    assert [member.name for member in read_tar(io.BytesIO(data))] == [*FILES, "folder/"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "without the block of zeros"),
        (edited(0, b"m")[:BLOCK], "without the block of zeros"),
        (edited(0, b"m")[: BLOCK + 7], "truncated header"),
        (b"x" + edited(0, b"m")[1:], "invalid header"),
        (packed({"a": b"a"}) [: BLOCK + 100], "unexpected end of data"),
        (edited(124, b"00000003000\0"), "unexpected end of data"),
        (edited(124, b"0000000008\0\0"), "invalid header"),
        (edited(124, b"-0000000001\0"), "invalid header"),
        (edited(124, b"0o000000001\0"), "invalid header"),
        (edited(124, b"\xff" * 12), "invalid header"),
        (edited(257, b"ustax\0"), "invalid header"),
        (edited(156, b"g") + bytes(BLOCK), "describes no member"),
        (pax(b"12 path=m/a"), "invalid pax record"),
        (pax(b"13 path=m/a\n"), "invalid pax record"),
        (pax(b"11 path=m/a\n"), "invalid pax record"),
        (pax(b"0 path=m/a\n"), "invalid pax record"),
        (pax(b"12 path m/a\n"), "invalid pax record"),
        (pax(b"6 =m/\n"), "invalid pax record"),
        (pax(b"999999999999999999999 path=m/a\n"), "invalid pax record"),
        (pax(b"x"), "invalid pax record"),
        (pax(b"11 size=-1\n"), "invalid pax record"),
        (pax(b"11 size=1_\n"), "invalid pax record"),
        (pax(b"13 size=2000\n"), "unexpected end of data"),
        (pax(b"12 path=m/a\n", tarfile.XGLTYPE), "a global header with the name"),
        (pax(b"10 size=1\n", tarfile.XGLTYPE), "a global header with the name"),
        (pax(b"22 GNU.sparse.size=10\n"), "a sparse file"),
        (pax(b"22 SUN.holesdata= 0 1\n"), "a sparse file"),
        (pax(b"22 SCHILY.realsize=10\n"), "a sparse file"),
        *((edited(156, bytes([kind])), "a device, pipe or other") for kind in b"346DVNA"),
        *((edited(156, bytes([kind])), "a link") for kind in b"12"),
    ],
)  # fmt: skip
def test_refuses(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(data)


@pytest.mark.parametrize("end", range(0, 3 * BLOCK, 100))
def test_no_part_of_an_archive_is_taken_for_the_whole(end: int) -> None:
    data = packed({"m/config.json": b"{}"}, tarfile.USTAR_FORMAT)
    with pytest.raises(ValueError, match=r"truncated header|unexpected end"):
        read(data[:end])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sound archive with one to three fields of headers that hold something else, and right checksums."""
    kind = draw(st.sampled_from(list(FORMATS.values())))
    data = bytearray(
        packed({"m/config.json": b"{}", f"{LONG}/é": b"x" * 600, "m/a": b""}, kind).rstrip(b"\0")
    )
    data += bytes(-len(data) % BLOCK + 2 * BLOCK)
    headers = [place for place in range(0, len(data), BLOCK) if data[place + 257 : place + 262] == b"ustar"]
    for _ in range(draw(st.integers(1, 3))):
        header = draw(st.sampled_from(headers))
        start, end = draw(st.sampled_from(FIELDS if kind == tarfile.GNU_FORMAT else (*FIELDS, PREFIX)))
        length = draw(st.integers(1, end - start))
        value = draw(st.binary(min_size=1, max_size=length) | _digits(end - start))
        data[header + start : header + start + len(value)] = value
        data[header : header + BLOCK] = signed(bytes(data[header : header + BLOCK]))
        # The content of a header that describes another one.
        place = header + BLOCK + draw(st.integers(0, 60))
        if data[header + 156] in b"xL" and draw(st.booleans()) and place < len(data):
            data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
    return bytes(data[: draw(st.integers(0, len(data)))] if not draw(st.integers(0, 5)) else data)


def _digits(length: int) -> st.SearchStrategy[bytes]:
    return st.integers(0, 3000).map(lambda number: (b"%o\0" % number)[-length:])


@settings(max_examples=400, deadline=None)
@given(data=damaged())
def test_damage_gives_the_same_tree_or_an_error(data: bytes) -> None:
    try:
        found = read(data)
    except (ValueError, ArchiveError):
        return
    assert found == read_by_tarfile(data)


def outcome(work: Callable[[], object]) -> str:
    try:
        work()
    except ArchiveError as error:
        return error.message
    return "sound"


@settings(max_examples=150, deadline=None)
@given(data=damaged())
def test_damage_reaches_nothing_outside(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("damage")
    (folder / "upload").write_bytes(data)
    (folder / "into").mkdir()
    limits = ArchiveLimits(max_members=20, max_unpacked_bytes=100_000)
    validated = outcome(lambda: validate_archive(folder / "upload", limits))
    assert validated == outcome(lambda: unpack_archive(folder / "upload", folder / "into", limits))
    assert {path.name for path in folder.iterdir()} == {"upload", "into"}
    assert not any(path.is_symlink() for path in folder.rglob("*"))
