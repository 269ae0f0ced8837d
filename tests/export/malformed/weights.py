"""Checkpoints whose safetensors must not pass, each with a part of its message."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.export.edits import (
    Edit,
    add,
    change_config,
    change_tensors,
    index,
    only_pickle,
    poison,
    remove,
    write,
)
from tests.export.malformed.inputs import in_place_of

WEIGHTS = "model.safetensors"


def change_header(change: Callable[[dict[str, Any]], object]) -> Edit:
    """Of the safetensors file, whose data stays."""

    def edit(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        change(header)
        (folder / WEIGHTS).write_bytes(packed(json.dumps(header).encode()) + data[8 + length :])

    return edit


def packed(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def set_entry(**changes: object) -> Edit:
    """Of the final norm's bias, `[64]` float32."""
    return change_header(lambda header: header["transformer.ln_f.bias"].update(changes))


def shift(start: int, end: int) -> Edit:
    """The offsets of the first tensor of the file."""

    def change(header: dict[str, Any]) -> None:
        header.pop("__metadata__", None)
        first = min(header.values(), key=lambda entry: int(entry["data_offsets"][0]))
        first["data_offsets"] = [first["data_offsets"][0] + start, first["data_offsets"][1] + end]

    return change_header(change)


def many_tensors(count: int) -> Edit:
    names = ",".join(
        f'"t{number}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for number in range(count)
    )
    return write(WEIGHTS, packed(f"{{{names}}}".encode()))


def add_empty(header: dict[str, Any]) -> None:
    """A hundred thousand tensors of no bytes."""
    header |= {
        f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(100_000)
    }


def as_type(dtype: torch.dtype) -> Edit:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.ln_f.bias"] = tensors["transformer.ln_f.bias"].to(dtype)

    return change_tensors(change)


def widen(tensors: dict[str, torch.Tensor]) -> None:
    tensors["transformer.ln_f.bias"] = tensors["transformer.ln_f.bias"].double() + 1e300


def poison_halves(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        tensors[name] = tensors[name].half()
    tensors["transformer.wpe.weight"][0, 0] = float("inf")


def scale_all(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        tensors[name] = tensors[name] * 1e18


def shards(weight_map: Callable[[dict[str, str]], object], both: bool = False) -> Edit:
    """Two files, the norms in the second; with `both` the first keeps them too."""

    def edit(folder: Path) -> None:
        def keep(tensors: dict[str, torch.Tensor], norms: bool) -> None:
            for name in list(tensors):
                if ("ln_f" in name) != norms:
                    del tensors[name]

        shutil.copy(folder / WEIGHTS, folder / "copy")
        change_tensors(lambda tensors: keep(tensors, True))(folder)
        (folder / WEIGHTS).rename(folder / "b.safetensors")
        (folder / "copy").rename(folder / WEIGHTS)
        places = dict.fromkeys(("transformer.ln_f.bias", "transformer.ln_f.weight"), "b.safetensors")
        if not both:
            change_tensors(lambda tensors: keep(tensors, False))(folder)

        def place(header: dict[str, Any]) -> None:
            for name in header:
                if name != "__metadata__":
                    places.setdefault(name, "a.safetensors")

        change_header(place)(folder)
        (folder / WEIGHTS).rename(folder / "a.safetensors")
        weight_map(places)
        index(places)(folder)

    return edit


TENSORS: dict[str, tuple[Edit, str]] = {
    "no weights": (remove(WEIGHTS), "model.safetensors: missing, and no model.safetensors.index.json"),
    "only a pickle": (only_pickle, "pytorch_model.bin: pickles are not opened; convert it"),
    "weights a folder": (in_place_of(WEIGHTS, Path.mkdir), "model.safetensors: a folder, but"),
    "weights a pipe": (in_place_of(WEIGHTS, os.mkfifo), "model.safetensors: a pipe, but"),
    "weights empty": (write(WEIGHTS, b""), "0 bytes, too short for a header"),
    "weights of seven bytes": (write(WEIGHTS, bytes(7)), "7 bytes, too short for a header"),
    "header beyond the file": (
        write(WEIGHTS, struct.pack("<Q", 1000) + b"{}"),
        "header of 1000 bytes, but the file has 10",
    ),
    "header of 2^63 bytes": (
        write(WEIGHTS, struct.pack("<Q", 1 << 63)),
        "header of 9223372036854775808 bytes",
    ),
    "header of a million tensors": (many_tensors(1_000_000), "bytes, but at most 16777216 are read"),
    "many tensors more": (change_header(add_empty), "tensor t0: GPT2LMHeadModel has no such weight"),
    "header not JSON": (
        write(WEIGHTS, packed(b"{]")),
        "model.safetensors: not JSON: Expecting property name",
    ),
    "header not UTF-8": (write(WEIGHTS, packed(b'{"\xff": 1}')), "model.safetensors: not UTF-8 at byte 2"),
    "header nested": (
        write(WEIGHTS, packed(b'{"a":' * 50_000)),
        "model.safetensors: not JSON that is read: nested",
    ),
    "header a list": (write(WEIGHTS, packed(b"[]")), "model.safetensors: an object is needed, not list"),
    "tensor twice": (
        write(WEIGHTS, packed(b'{"a": {}, "a": {}}')),
        "model.safetensors: not JSON: the name 'a' comes twice in one object",
    ),
    "no tensors": (
        write(WEIGHTS, packed(b'{"__metadata__": {}}')),
        "not a sound safetensors file: no tensors",
    ),
    "tensor a list": (write(WEIGHTS, packed(b'{"a": []}')), "tensor a: entry is not an object"),
    "name of two lines": (
        write(WEIGHTS, packed(b'{"a\\nb": {}}')),
        "tensor 'a\\nb': a name has 1 to 200 printable",
    ),
    "long name": (write(WEIGHTS, packed(b'{"' + b"x" * 100_000 + b'": {}}')), "xxx...': a name has 1 to 200"),
    "unknown type": (set_entry(dtype="F17"), "tensor transformer.ln_f.bias: unknown dtype 'F17'"),
    "negative size": (set_entry(shape=[-64]), "shape [-64] is not a list of sizes"),
    "fractional size": (set_entry(shape=[64.5]), "shape [64.5] is not a list of sizes"),
    "nine dimensions": (set_entry(shape=[1] * 9), "shape [1, 1, 1, 1, 1, 1, 1, 1, 1] is not a list"),
    "huge size": (
        set_entry(shape=[1 << 47, 1 << 47]),
        "256 bytes, but F32 (140737488355328, 140737488355328) takes",
    ),
    "one offset": (set_entry(data_offsets=[16]), "data_offsets [16] are not two offsets"),
    "offsets reversed": (set_entry(data_offsets=[512, 256]), "-256 bytes, but F32 (64,) takes 256"),
    "overlap": (set_entry(data_offsets=[0, 256]), "overlaps the tensor before it"),
    "hole": (shift(4, 4), "leaves a hole before it"),
    "truncated": (
        lambda folder: os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 5),
        "(truncated or padded)",
    ),
    "whole numbers": (as_type(torch.int8), "tensor transformer.ln_f.bias: dtype I8, but only F32, F16, F64"),
    "wide floats beyond float32": (
        change_tensors(widen),
        "tensor transformer.ln_f.bias: holds NaN or infinite",
    ),
    "pointer of Git LFS": (
        write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 548105171\n"),
        "model.safetensors: a Git LFS pointer, and not the file itself: fetch it with `git lfs pull`",
    ),
    "NaN": (poison(float("nan")), "tensor transformer.h.1.mlp.c_fc.weight: holds NaN or infinite values"),
    "infinity in halves": (
        change_tensors(poison_halves),
        "tensor transformer.wpe.weight: holds NaN or infinite",
    ),
    "weights too large": (change_tensors(scale_all), "its weights are too large to compute with"),
    "weight too large for fp16": (poison(1e6), "but fp16 ends at 65504"),
    "tensor missing": (
        change_tensors(lambda tensors: tensors.pop("transformer.ln_f.bias")),
        "tensor ln_f.bias: missing, expected shape (64,)",
    ),
    "tensor of an adapter": (
        add("base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight", 4, 4),
        "c_attn.lora_A.default.weight: adapters that are not merged into their model: merge them",
    ),
    "tensor of no part": (
        add("transformer.h.0.extra", 4, 4),
        "tensor h.0.extra: GPT2LMHeadModel has no such",
    ),
    "tensor with both prefixes": (
        add("ln_f.bias", 64),
        "stored with and without a prefix: ",
    ),
    "table of no rows": (
        change_tensors(lambda tensors: tensors.update({"transformer.wte.weight": torch.zeros(0, 64)})),
        "tensor wte.weight: expected shape (300, 64), found (0, 64)",
    ),
    "weight transposed": (
        change_tensors(
            lambda tensors: tensors.update(
                {"transformer.h.0.mlp.c_fc.weight": tensors["transformer.h.0.mlp.c_fc.weight"].T.contiguous()}
            )
        ),
        "tensor h.0.mlp.c_fc.weight: expected shape (64, 256), found (256, 64)",
    ),
    "more layers than weights": (change_config(n_layer=3), "tensor h.2.ln_1.weight: missing"),
    "fewer layers than weights": (
        change_config(n_layer=1),
        "tensor h.1.attn.c_attn.bias: GPT2LMHeadModel has no",
    ),
    "index without a map": (index([]), "model.safetensors.index.json: weight_map: an object"),
    "index truncated": (
        write("model.safetensors.index.json", b"{"),
        "model.safetensors.index.json: not JSON",
    ),
    "shard outside": (
        index({"wte.weight": "../x.safetensors"}),
        "'../x.safetensors' is not a safetensors file name",
    ),
    "shard at an absolute path": (
        index({"a": "/x.safetensors"}),
        "a: '/x.safetensors' is not a safetensors file",
    ),
    "shard a pickle": (index({"wte.weight": "x.bin"}), "wte.weight: 'x.bin' is not a safetensors file name"),
    "shard of a long name": (
        index({"a": "x" * 5000 + ".safetensors"}),
        "xxx...' is not a safetensors file name",
    ),
    "shard missing": (
        index({"wte.weight": "x.safetensors"}),
        "x.safetensors: missing, but model.safetensors.index",
    ),
    "tensor not in its shard": (
        index({"nothing": WEIGHTS}),
        "tensor nothing: not in model.safetensors, where",
    ),
    "tensor in two shards": (
        shards(lambda places: None, both=True),
        "in b.safetensors and in a.safetensors, but one place is allowed",
    ),
    "tensor of no place": (
        shards(lambda places: places.pop("transformer.wpe.weight")),
        "tensor transformer.wpe.weight: in a.safetensors, but not in model.safetensors.index.json",
    ),
}
