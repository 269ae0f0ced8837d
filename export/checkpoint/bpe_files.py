"""GPT-2's byte-level BPE in two files: vocab.json and merges.txt, or OpenAI's encoder.json and vocab.bpe."""

from __future__ import annotations

import re
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from export.checkpoint.complaints import complaints
from export.errors import CheckpointError
from export.reading import read_json_object, read_text

# transformers' names, then those of OpenAI's release.
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_LINE_END = re.compile(r"\r\n|\r|\n")


def convert(vocabulary_path: Path, merges_path: Path, begin: str | None) -> Tokenizer:
    """Set up as transformers' GPT2TokenizerFast does; `begin` is the token that its template puts first."""
    vocabulary = read_json_object(vocabulary_path)
    ids = list(vocabulary.values())
    if not ids or not all(type(index) is int and 0 <= index < 1 << 32 for index in ids):
        raise CheckpointError(
            f"{vocabulary_path.name}: an object from tokens to ids is needed", field=vocabulary_path.name
        )
    if len(set(ids)) != len(ids):
        raise CheckpointError(f"{vocabulary_path.name}: two tokens have one id", field=vocabulary_path.name)
    merges = _read_merges(merges_path)
    if not merges and sum(len(token) > 1 for token in vocabulary) * 2 > len(vocabulary):
        raise CheckpointError(
            f"{merges_path.name}: no merges, but {vocabulary_path.name} has tokens that only merges make",
            field=merges_path.name,
        )
    with complaints(merges_path.name):
        model = models.BPE(vocab=vocabulary, merges=merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if begin is None:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    elif begin in vocabulary:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin}:0 $A:0",
            pair=f"{begin}:0 $A:0 $B:1",
            special_tokens=[(begin, vocabulary[begin])],
        )
    else:
        raise CheckpointError(
            f"{vocabulary_path.name}: no token {begin!r}, which add_bos_token puts first",
            field=vocabulary_path.name,
        )
    return tokenizer


def _read_merges(path: Path) -> list[tuple[str, str]]:
    """Two tokens a line, in order; a third column of numbers, as of counts, is passed over."""
    merges = []
    for number, line in enumerate(_LINE_END.split(read_text(path)), start=1):
        parts = line.split()
        if not parts or (number == 1 and line.startswith("#version")):
            continue
        if len(parts) == 3 and parts[2].isascii() and parts[2].isdecimal():
            parts = parts[:2]
        if len(parts) != 2:
            raise CheckpointError(f"{path.name}: line {number}: two tokens are needed", field=path.name)
        merges.append((parts[0], parts[1]))
    return merges
