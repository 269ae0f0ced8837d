"""The safetensors reader against damaged and hostile files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from export.checkpoint.tensors import TensorFile, read_header
from export.errors import CheckpointError

SOUND: dict[str, Any] = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "F16", "shape": [4], "data_offsets": [16, 24]},
}
DATA = bytes(24)


def packed(header: object, data: bytes = DATA) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def changed(**changes: object) -> bytes:
    return packed({**SOUND, "b": {**SOUND["b"], **changes}})


DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "too short"),
    "seven bytes": (bytes(7), "too short"),
    "header beyond the file": (struct.pack("<Q", 1000) + b"{}", "header of 1000 bytes"),
    "header of 2^63 bytes": (struct.pack("<Q", 1 << 63) + b"{}", "header of"),
    "header not JSON": (packed(b"{]"), "not JSON"),
    "header not UTF-8": (packed(b'{"\xff": 1}'), "not UTF-8"),
    "header a list": (packed([]), "an object is needed"),
    "name twice": (packed(b'{"a": {}, "a": {}}'), "twice"),
    "nested": (packed(b'{"a":' * 50_000), "not JSON"),
    "no tensors": (packed({"__metadata__": {"format": "pt"}}, b""), "no tensors"),
    "entry a list": (packed({"a": []}), "not an object"),
    "unknown dtype": (changed(dtype="F17"), "unknown dtype"),
    "dtype a number": (changed(dtype=7), "unknown dtype"),
    "negative size": (changed(shape=[-4]), "not a list of sizes"),
    "fractional size": (changed(shape=[4.0]), "not a list of sizes"),
    "size true": (changed(shape=[True]), "not a list of sizes"),
    "huge sizes": (changed(shape=[1 << 47, 1 << 47]), "takes"),
    "nine dimensions": (changed(shape=[1] * 9), "not a list of sizes"),
    "one offset": (changed(data_offsets=[16]), "not two offsets"),
    "offsets reversed": (changed(data_offsets=[24, 16]), "takes"),
    "offsets missing": (changed(data_offsets=None), "not two offsets"),
    "overlap": (changed(data_offsets=[8, 16]), "overlaps"),
    "hole": (packed({**SOUND, "b": {**SOUND["b"], "data_offsets": [20, 28]}}, bytes(28)), "hole"),
    "shape and bytes differ": (changed(shape=[5]), "takes 10"),
    "truncated": (packed(SOUND, bytes(23)), "truncated"),
    "trailing": (packed(SOUND, bytes(25)), "truncated or padded"),
}


@pytest.mark.parametrize(("data", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_refuses_damaged_files(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert message in caught.value.message
    assert caught.value.field == "model.safetensors"


def test_reads_what_the_reference_writes(tmp_path: Path) -> None:
    arrays = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.array([], np.float32)}
    (tmp_path / "x.safetensors").write_bytes(save(arrays, {"format": "pt"}))
    file = TensorFile(tmp_path / "x.safetensors")
    for name, array in arrays.items():
        assert np.array_equal(file.read(name), array)
