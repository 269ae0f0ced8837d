"""Checkpoints of GPT-2's published shapes with random weights: speed and memory do not depend on the values.

    python -m perf.checkpoints gpt2-xl ./var/gpt2-xl
    python -m perf.checkpoints gpt2 ./var/classifier --classifier

Weights are drawn as GPT-2 initializes them (normal, 0.02) from a fixed seed and written tensor by tensor, so
that the largest takes no more memory than its largest tensor. The tokenizer is a bundled model's, whose ids
are the first of the vocabulary; all others are words that no text has, so that every token that is generated
has a text and travels.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.checkpoint.config import CONFIG_FILE, Head, read_config
from export.checkpoint.folder import Shape, expected_shapes
from export.checkpoint.tensors import SINGLE_FILE
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
    # Weights come into their place when all of them are there: they tell that the folder is whole.
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classifier", action="store_true", help="with a head of two labels")
    options = parser.parse_args()
    changes = {"architectures": [Head.SEQUENCE.value]} if options.classifier else {}
    write_checkpoint(options.size, options.folder, options.seed, **changes)


if __name__ == "__main__":
    main()
