"""The tokenizer of a checkpoint as tokenizer.json, converted from GPT-2's two-file form where needed."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from export.config import CONFIG_FILE, ModelConfig
from export.errors import CheckpointError
from export.tensors import read_json_object
from runtime.contract import TOKENIZER_FILE

END_OF_TEXT = "<|endoftext|>"
# transformers' names, then those of OpenAI's release.
_PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


def read_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    """Raises CheckpointError where none is there, it is damaged, or has ids beyond the model's vocabulary."""
    tokenizer = _load(folder)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise CheckpointError(f"{TOKENIZER_FILE}: the vocabulary is empty", field=TOKENIZER_FILE)
    token, largest = max(vocabulary.items(), key=lambda item: item[1])
    if largest >= config.vocab_size:
        raise CheckpointError(
            f"{TOKENIZER_FILE}: token {token!r} has id {largest},"
            f" but {CONFIG_FILE} has vocab_size {config.vocab_size}",
            field="vocab_size",
        )
    # A truncation or padding stored by a trainer would silently change prompts.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _load(folder: Path) -> Tokenizer:
    path = folder / TOKENIZER_FILE
    if path.is_file():
        read_json_object(path)  # its errors are clearer than the library's
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{TOKENIZER_FILE}: {error}", field=TOKENIZER_FILE) from None
    for vocabulary, merges in _PAIRS:
        if (folder / vocabulary).is_file() and (folder / merges).is_file():
            return _convert(folder / vocabulary, folder / merges)
    raise CheckpointError(
        f"{TOKENIZER_FILE}: missing, and no vocab.json + merges.txt or encoder.json + vocab.bpe either",
        field=TOKENIZER_FILE,
    )


def _convert(vocabulary_path: Path, merges_path: Path) -> Tokenizer:
    """GPT-2's byte-level BPE, set up as transformers' GPT2TokenizerFast does."""
    vocabulary = read_json_object(vocabulary_path)
    if not vocabulary or not all(type(index) is int and index >= 0 for index in vocabulary.values()):
        raise CheckpointError(
            f"{vocabulary_path.name}: an object from tokens to ids is needed", field=vocabulary_path.name
        )
    try:
        model = models.BPE(vocab=vocabulary, merges=_read_merges(merges_path))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{merges_path.name}: {error}", field=merges_path.name) from None
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if END_OF_TEXT in vocabulary:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path.name}: not UTF-8: {error.reason}", field=path.name) from None
    merges = []
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.rstrip("\r").split(" ")
        if len(parts) != 2:
            raise CheckpointError(f"{path.name}: line {number}: two tokens are needed", field=path.name)
        merges.append((parts[0], parts[1]))
    return merges


def write_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    path.write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False) + "\n", "utf-8")
