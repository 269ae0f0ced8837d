"""Reading files of unknown origin: plain files of a bounded size, and strict JSON."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

from export.errors import CheckpointError
from runtime import strict_json

PICKLE_NAMES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
CONVERT_LINE = (
    "python -c \"import transformers as t; f = 'FOLDER'; c = t.AutoConfig.from_pretrained(f);"
    ' getattr(t, c.architectures[0]).from_pretrained(f).save_pretrained(f)"'
)
LFS_START = b"version https://git-lfs.github.com/spec/"  # of the text that Git LFS leaves in place of a file
# Parsed JSON takes up to 35 times its bytes. A tokenizer of 200,000 tokens has about 10 MB.
MAX_TEXT_BYTES = 16 << 20
MAX_DIGITS = 40  # of a whole number; transformers writes 31 for a tokenizer without a length
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def is_there(path: Path) -> bool:
    """True also where the name is no plain file: that is an error of another kind than a missing file."""
    return os.path.lexists(path)


def plain_size(path: Path) -> int:
    """Size in bytes of a plain file, or of the file that a link leads to; raises CheckpointError.

    Opening a pipe or a device could block, and reading it could never end.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        why = "a link that leads nowhere" if path.is_symlink() else "missing"
        raise CheckpointError(f"{path.name}: {why}", field=path.name) from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise CheckpointError(f"{path.name}: a link that leads back to itself", field=path.name) from None
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise CheckpointError(f"{path.name}: {kind}, but a plain file is needed", field=path.name)
    return found.st_size


def refuse_pointer(start: bytes, name: str) -> None:
    """Raise CheckpointError where the first bytes of the file `name` are those of a Git LFS pointer."""
    if start.startswith(LFS_START):
        raise CheckpointError(
            f"{name}: a Git LFS pointer, and not the file itself: fetch it with `git lfs pull` in its"
            " repository, or with `hf download`",
            field=name,
        )


def read_text(path: Path) -> str:
    """The whole of a UTF-8 file of at most MAX_TEXT_BYTES; raises CheckpointError."""
    size = plain_size(path)
    if size > MAX_TEXT_BYTES:
        raise CheckpointError(
            f"{path.name}: {size} bytes, but at most {MAX_TEXT_BYTES} are read", field=path.name
        )
    return _decode(path.read_bytes(), path.name)


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises CheckpointError where the file is missing or holds anything else."""
    return _parse(read_text(path), path.name)


def parse_json_object(data: bytes, name: str) -> dict[str, Any]:
    """The same for `data` that was read from the file `name`."""
    return _parse(_decode(data, name), name)


def _decode(data: bytes, name: str) -> str:
    refuse_pointer(data, name)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{name}: not UTF-8 at byte {error.start}", field=name) from None


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        value = strict_json.parse(text, parse_int=_whole)
    except RecursionError:
        raise CheckpointError(f"{name}: not JSON that is read: nested too deeply", field=name) from None
    except ValueError as error:
        raise CheckpointError(f"{name}: not JSON: {error}", field=name) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{name}: an object is needed, not {type(value).__name__}", field=name)
    return value


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits, but at most {MAX_DIGITS} are read")
    return int(digits)
