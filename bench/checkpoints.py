"""Checkpoints of GPT-2's published shapes with random weights: speed and memory do not depend on the values.

    python -m bench checkpoint gpt2-xl ./var/gpt2-xl
    python -m bench checkpoint gpt2 ./var/classifier --classifier

Weights are drawn as GPT-2 initializes them (normal, 0.02) from a fixed seed and written tensor by tensor:
this needs no more memory than the largest tensor. The tokenizer is that of a bundled model; its ids are the
first of the vocabulary. The other ids stand for words that no text contains, so that every generated token
has a text that is sent to the client.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from export.checkpoint.config import Head, read_config
from export.checkpoint.config_reader import CONFIG_FILE
from export.checkpoint.folder import Shape, expected_shapes
from export.checkpoint.tensors import SINGLE_FILE
from perf.errors import PlanError
from runtime.contract import TOKENIZER_FILE

TOKENIZER_OF = Path(__file__).resolve().parents[1] / "models" / "mini-lm"
DEVIATION = 0.02


@dataclass(frozen=True, slots=True)
class Size:
    layers: int
    hidden: int
    heads: int


SIZES = {
    "gpt2": Size(12, 768, 12),
    "gpt2-medium": Size(24, 1024, 16),
    "gpt2-large": Size(36, 1280, 20),
    "gpt2-xl": Size(48, 1600, 25),
}


def write_checkpoint(size: str, folder: Path, seed: int = 0, **changes: Any) -> None:
    """Write `folder` in Hugging Face layout; `changes` go into config.json. An existing folder is kept."""
    if (folder / SINGLE_FILE).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    shape = SIZES[size]
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": shape.layers,
        "n_embd": shape.hidden,
        "n_head": shape.heads,
        "vocab_size": 50257,
        "n_positions": 1024,
        "eos_token_id": 0,
        "bos_token_id": 0,
        **changes,
    }
    _write_tokenizer(folder / TOKENIZER_FILE, int(config["vocab_size"]))
    # The weights file gets its name last: it marks the folder as complete.
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2))
    weights = folder / f"{SINGLE_FILE}.part"
    _write_weights(weights, expected_shapes(read_config(folder)), seed)
    weights.rename(folder / SINGLE_FILE)


def _write_tokenizer(path: Path, size: int) -> None:
    tokenizer = json.loads((TOKENIZER_OF / TOKENIZER_FILE).read_bytes())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary.update({f"Ġunused{token}": token for token in range(len(vocabulary), size)})
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")


def _write_weights(path: Path, shapes: Mapping[str, Shape], seed: int) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            values = random.standard_normal(shape, np.float32) * np.float32(DEVIATION)
            if len(shape) == 1 and ".ln_" in f".{name}" and name.endswith("weight"):
                values += 1
            file.write(values.data.cast("B"))


def checkpoint(
    size: Annotated[str, typer.Argument(help=f"One of {', '.join(SIZES)}.")],
    folder: Path,
    seed: int = 0,
    classifier: Annotated[bool, typer.Option("--classifier", help="With a head of two labels.")] = False,
) -> None:
    if size not in SIZES:
        raise PlanError(f"SIZE: {size!r} is not one of {', '.join(SIZES)}")
    changes = {"architectures": [Head.SEQUENCE.value]} if classifier else {}
    write_checkpoint(size, folder, seed, **changes)
