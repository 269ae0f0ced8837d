"""Reading safetensors without torch: the header is checked, data is memory-mapped, tensors become float32.

Format: https://huggingface.co/docs/safetensors (header length in 8 bytes, JSON header, then the data of all
tensors without holes or overlaps).
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from export.errors import CheckpointError
from export.reading import (
    CONVERT_LINE,
    LFS_START,
    MAX_TEXT_BYTES,
    PICKLE_NAMES,
    is_there,
    parse_json_object,
    plain_size,
    read_json_object,
    refuse_pointer,
)
from runtime.contract import shown

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# The reference implementation reads 100 MB. A model of 1,000 layers has a header of 2 MB.
MAX_HEADER_BYTES = MAX_TEXT_BYTES
MAX_NAME_LENGTH = 200
MAX_RANK = 8
_SHARD_NAME = re.compile(r"[\w.-]{1,100}\.safetensors", re.ASCII)

_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
# BF16 has no type of NumPy: it is read by hand.
_STORED: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8")}
_READABLE = (*_STORED, "BF16")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: `start` and `end` are offsets in bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a safetensors file."""

    entries: dict[str, TensorEntry]
    metadata: dict[str, str]  # the writer's notes


class TensorFile:
    """One memory-mapped safetensors file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path)
        self.entries, self.metadata = header.entries, header.metadata
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor as float32; a view of the file if that stores float32.

        The memory of tensors that were read before is returned: the whole file need not fit.
        """
        self.release()
        entry = self.entries[name]
        _require_readable(name, entry)
        count = math.prod(entry.shape)
        if entry.dtype == "BF16":
            # The upper half of a float32 is a bfloat16.
            halves = np.frombuffer(self._data, np.dtype("<u2"), count, entry.start)
            array = (halves.astype(np.uint32) << 16).view(np.float32)
        else:
            stored = np.frombuffer(self._data, _STORED[entry.dtype], count, entry.start)
            with np.errstate(over="ignore"):  # of a float64: the check below names it
                array = stored.astype(np.float32, copy=False)
        # Minimum and maximum propagate NaN and infinity and, unlike isfinite, allocate nothing.
        if count and not (np.isfinite(array.min()) and np.isfinite(array.max())):
            raise CheckpointError(f"tensor {name}: holds NaN or infinite values", field=name)
        return array.reshape(entry.shape)

    def release(self) -> None:
        """Return the memory of what was read; views stay valid and are read from the disk again."""
        self._data.madvise(mmap.MADV_DONTNEED)


def _require_readable(name: str, entry: TensorEntry) -> None:
    if entry.dtype not in _READABLE:
        raise CheckpointError(
            f"tensor {name}: dtype {entry.dtype}, but only {', '.join(_READABLE)} are read", field=name
        )


class TensorStore:
    """All tensors of a checkpoint folder, single or sharded, under the names stored in it."""

    def __init__(self, files: dict[str, TensorFile]) -> None:
        self._files = files

    @classmethod
    def open(cls, folder: Path) -> TensorStore:
        """Raises CheckpointError where the folder has no safetensors, or damaged ones."""
        if is_there(folder / INDEX_FILE):
            return cls(_open_shards(folder))
        if is_there(folder / SINGLE_FILE):
            file = TensorFile(folder / SINGLE_FILE)
            return cls(dict.fromkeys(file.entries, file))
        for name in PICKLE_NAMES:
            if is_there(folder / name):
                raise CheckpointError(
                    f"{name}: pickles are not opened; convert it where you trust it: {CONVERT_LINE}",
                    field=name,
                )
        raise CheckpointError(f"{SINGLE_FILE}: missing, and no {INDEX_FILE} either", field=SINGLE_FILE)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    @property
    def metadata(self) -> dict[str, str]:
        """The writers' notes. safetensors' save_model notes a name that it left out as {name: kept name}."""
        return {key: value for file in set(self._files.values()) for key, value in file.metadata.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._files[name].entries[name].shape

    def require_readable(self, name: str) -> None:
        """Raises CheckpointError for a dtype that `read` would refuse."""
        _require_readable(name, self._files[name].entries[name])

    def read(self, name: str) -> NDArray[np.float32]:
        return self._files[name].read(name)

    def release(self) -> None:
        for file in set(self._files.values()):
            file.release()


def _open_shards(folder: Path) -> dict[str, TensorFile]:
    index = read_json_object(folder / INDEX_FILE)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{INDEX_FILE}: weight_map: an object of tensor names is needed", field=INDEX_FILE
        )
    shards: dict[str, TensorFile] = {}
    files: dict[str, TensorFile] = {}
    for name, shard in weight_map.items():
        _check_tensor_name(INDEX_FILE, name)
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            raise CheckpointError(
                f"{INDEX_FILE}: {name}: {shown(str(shard))} is not a safetensors file name", field=name
            )
        if shard not in shards:
            if not is_there(folder / shard):
                raise CheckpointError(f"{shard}: missing, but {INDEX_FILE} names it", field=shard)
            shards[shard] = TensorFile(folder / shard)
        if name not in shards[shard].entries:
            raise CheckpointError(f"tensor {name}: not in {shard}, where {INDEX_FILE} puts it", field=name)
        files[name] = shards[shard]
    for shard, file in shards.items():
        for name in file.entries:
            if name not in files:
                raise CheckpointError(f"tensor {name}: in {shard}, but not in {INDEX_FILE}", field=name)
            if files[name] is not file:
                raise CheckpointError(
                    f"tensor {name}: in {files[name].path.name} and in {shard}, but one place is allowed",
                    field=name,
                )
    return files


def read_header(path: Path) -> Header:
    """Parse and check a safetensors header; raises CheckpointError for anything that the format forbids."""
    size = plain_size(path)
    with path.open("rb") as file:
        prefix = file.read(8)
        refuse_pointer(prefix + file.peek(len(LFS_START)), path.name)
        if len(prefix) < 8:
            raise _damaged(path, f"{size} bytes, too short for a header")
        (length,) = struct.unpack("<Q", prefix)
        if length > size - 8:
            raise _damaged(path, f"header of {length} bytes, but the file has {size}")
        if length > MAX_HEADER_BYTES:
            raise _damaged(path, f"header of {length} bytes, but at most {MAX_HEADER_BYTES} are read")
        header = parse_json_object(file.read(length), path.name)
    noted = header.pop("__metadata__", None)
    if not header:
        raise _damaged(path, "no tensors")
    entries = {name: _read_entry(path, name, value, 8 + length) for name, value in header.items()}
    position = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            what = "overlaps the tensor before it" if entry.start < position else "leaves a hole before it"
            raise _damaged(path, f"tensor {name} {what}")
        position = entry.end
    if position != size:
        raise _damaged(path, f"tensors end at byte {position}, but the file has {size} (truncated or padded)")
    notes = {key: str(value) for key, value in noted.items()} if isinstance(noted, dict) else {}
    return Header(entries, notes)


def _read_entry(path: Path, name: str, value: Any, data_start: int) -> TensorEntry:
    _check_tensor_name(path.name, name)
    if not isinstance(value, dict):
        raise _damaged(path, f"tensor {name}: entry is not an object")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise _damaged(path, f"tensor {name}: unknown dtype {str(dtype)[:40]!r}")
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        raise _damaged(path, f"tensor {name}: shape {str(shape)[:80]} is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _damaged(path, f"tensor {name}: data_offsets {str(offsets)[:80]} are not two offsets")
    wanted = math.prod(shape) * _ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != wanted:
        raise _damaged(
            path, f"tensor {name}: {offsets[1] - offsets[0]} bytes, but {dtype} {tuple(shape)} takes {wanted}"
        )
    return TensorEntry(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _check_tensor_name(file: str, name: str) -> None:
    """Refuse long and unprintable names: they appear in messages and in the graph."""
    if not (0 < len(name) <= MAX_NAME_LENGTH and name.isprintable()):
        raise CheckpointError(
            f"{file}: tensor {shown(name)}: a name has 1 to {MAX_NAME_LENGTH} printable characters",
            field=file,
        )


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path.name}: not a sound safetensors file: {what}", field=path.name)
