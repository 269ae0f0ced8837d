"""The input of every peer: one checkpoint of GPT-2's shape and prompts of random token ids.

The tokenizer of the checkpoint is a bundled one with invented words added, so that every id that random
weights choose has a text: our engine streams text, while the peers return ids. Prompts consist of ids whose
text encodes to the same ids, because our engine takes prompts as text.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from bench.checkpoints import write_checkpoint

SIZE = "gpt2"
VOCABULARY = 50257
END_OF_TEXT = "<|endoftext|>"
WORD = re.compile("Ġ[a-z]{2,}")  # Ġ is the space in byte-level BPE


def write_material(folder: Path) -> None:
    """A checkpoint that loads anywhere; an existing one is kept."""
    if folder.exists():
        return
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    write_checkpoint(SIZE, part, vocab_size=VOCABULARY)
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (part / "tokenizer_config.json").write_text(json.dumps(settings))
    part.rename(folder)


class PromptSource:
    """Prompts of random words; each call returns new ones, and every run gets the same sequence."""

    def __init__(self, tokenizer: Path, seed: int = 0) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
        self._random = np.random.default_rng(seed)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        self._words = np.array(
            sorted(index for word, index in vocabulary.items() if self._reads_back(word, index))
        )

    def _reads_back(self, word: str, index: int) -> bool:
        return WORD.fullmatch(word) is not None and self._tokenizer.encode(f" {word[1:]}").ids == [index]

    def take(self, batch: int, length: int) -> list[list[int]]:
        """`batch` prompts of `length` token ids."""
        prompts: list[list[int]] = self._random.choice(self._words, (batch, length)).tolist()
        return prompts


def as_texts(tokenizer: Path, prompts: Sequence[Sequence[int]]) -> list[str]:
    """The texts that a tokenizer reads as `prompts`."""
    reader = tokenizers.Tokenizer.from_file(str(tokenizer))
    return [reader.decode(list(prompt), skip_special_tokens=False) for prompt in prompts]
