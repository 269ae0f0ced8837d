"""The tokenizer of a checkpoint as tokenizer.json, converted from GPT-2's two-file form where needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from export.checkpoint.config import ModelConfig
from export.checkpoint.prompts import PromptReader
from export.errors import CheckpointError
from export.reading import is_there, read_json_object, read_text
from runtime.contract import TOKENIZER_FILE, Kind, is_byte_level, shown

END_OF_TEXT = "<|endoftext|>"
MAX_ADDED_TOKENS = 10_000  # the library compares them with each other
# transformers' names, then those of OpenAI's release.
_PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
# The allowed parts of a tokenizer. Parts that multiply a text (Replace, Prepend) and tables that the library
# trusts (Precompiled) are not allowed: a few bytes of them can take all memory and end the process.
_PARTS = {
    "normalizer": (
        *("Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents"),
        *("BertNormalizer", "ByteLevel"),
    ),
    "pre_tokenizer": (
        *("Sequence", "ByteLevel", "BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation"),
        *("Digits", "Metaspace", "CharDelimiterSplit", "UnicodeScripts", "Split"),
    ),
    "post_processor": ("Sequence", "ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing"),
    "decoder": (
        *("Sequence", "ByteLevel", "WordPiece", "BPEDecoder", "Metaspace", "ByteFallback", "Fuse", "Strip"),
        "CTC",
    ),
}
_SEQUENCES = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
# Other patterns can take endless time on some texts. These are GPT-2's and cl100k_base's, as published.
PATTERNS = (
    r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+""",
)
_PROBE = "".join(map(chr, range(32, 127))) + "\t\n\x00 ä é 漢字 🙂"


def read_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    """The tokenizer of a checkpoint folder; raises CheckpointError where none can be served."""
    tokenizer = _find_tokenizer(folder, config)
    with _complaints(TOKENIZER_FILE):
        readable = next(PromptReader.of(tokenizer, config).shortest(), None)
    if readable is None:
        raise _refused(
            f"no text becomes a token that fits the context: {config.context_length} tokens (n_positions)"
        )
    return tokenizer


def _find_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    if is_there(folder / TOKENIZER_FILE):
        return open_tokenizer(folder / TOKENIZER_FILE, config.vocab_size, config.head.kind)
    for vocabulary, merges in _PAIRS:
        if is_there(folder / vocabulary) and is_there(folder / merges):
            return _checked(_convert(folder / vocabulary, folder / merges), config.vocab_size)
    raise CheckpointError(
        f"{TOKENIZER_FILE}: missing, and no vocab.json + merges.txt or encoder.json + vocab.bpe either",
        field=TOKENIZER_FILE,
    )


def open_tokenizer(path: Path, vocab_size: int, kind: Kind) -> Tokenizer:
    """Read a tokenizer.json with token ids below `vocab_size`, set up to encode text as the engine does.

    Raises CheckpointError.
    """
    data = read_json_object(path)
    _check_parts(data)
    if kind is Kind.LM and not is_byte_level(data.get("decoder")):
        raise _refused(
            f"decoder: {_types_of(data.get('decoder'))}, but a language model is served by ByteLevel alone"
        )
    with _complaints(TOKENIZER_FILE):
        tokenizer = Tokenizer.from_file(str(path))
    return _checked(tokenizer, vocab_size)


def _check_parts(data: dict[str, Any]) -> None:
    for section in _PARTS:
        if data.get(section) is not None:
            _check_part(section, data[section])
    added, model = data.get("added_tokens"), data.get("model")
    if isinstance(added, list) and len(added) > MAX_ADDED_TOKENS:
        raise _refused(f"added_tokens: {len(added)}, but at most {MAX_ADDED_TOKENS} are read")
    if isinstance(model, dict) and model.get("dropout"):
        raise _refused("model.dropout: a text would be other tokens each time; null is needed")
    if isinstance(model, dict) and model.get("continuing_subword_prefix"):
        prefix = shown(str(model["continuing_subword_prefix"]))
        raise _refused(f"model.continuing_subword_prefix: {prefix}, but tokens of bytes have none")


def _check_part(section: str, part: Any) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _PARTS[section]:
        raise _refused(f"{section}: {shown(str(kind))} is not one of {', '.join(_PARTS[section])}")
    if kind == "Sequence":
        members = part.get(_SEQUENCES[section])
        for member in members if isinstance(members, list) else []:
            _check_part(section, member)
    pattern = part.get("pattern")
    if isinstance(pattern, dict) and "Regex" in pattern and pattern["Regex"] not in PATTERNS:
        raise _refused(f"{section}: the pattern {shown(str(pattern['Regex']))} is not one that is known")


def _checked(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise _refused("the vocabulary is empty")
    token, largest = max(vocabulary.items(), key=lambda item: item[1])
    if largest >= vocab_size:
        raise _refused(f"token {shown(token)} has id {largest}, beyond vocab_size {vocab_size}", "vocab_size")
    # Truncation or padding that a trainer stored would silently change prompts.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with _complaints(TOKENIZER_FILE, "does not read any text: "):
        ids = tokenizer.encode(_PROBE).ids + tokenizer.encode(_PROBE, _PROBE).ids
    # A template can contain ids that no token has.
    if max(ids, default=0) >= vocab_size:
        raise _refused(f"post_processor: adds id {max(ids)}, beyond vocab_size {vocab_size}", "vocab_size")
    return tokenizer


def _types_of(part: Any) -> str:
    """The types in a part of the file, for a message."""
    if not isinstance(part, dict):
        return "none"
    members = part.get("decoders")
    if part.get("type") != "Sequence" or not isinstance(members, list):
        return shown(str(part.get("type")))
    return f"a Sequence of {', '.join(map(_types_of, members[:5])) or 'nothing'}"


def _refused(why: str, field: str = TOKENIZER_FILE) -> CheckpointError:
    return CheckpointError(f"{TOKENIZER_FILE}: {why}", field=field)


@contextmanager
def _complaints(file: str, what: str = "") -> Iterator[None]:
    """Turn the library's errors into CheckpointError: bare Exceptions, and panics of its Rust code."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        complaint = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file}: {what}{complaint}", field=file) from None


def _convert(vocabulary_path: Path, merges_path: Path) -> Tokenizer:
    """GPT-2's byte-level BPE, set up as transformers' GPT2TokenizerFast does."""
    vocabulary = read_json_object(vocabulary_path)
    ids = list(vocabulary.values())
    if not ids or not all(type(index) is int and 0 <= index < 1 << 32 for index in ids):
        raise CheckpointError(
            f"{vocabulary_path.name}: an object from tokens to ids is needed", field=vocabulary_path.name
        )
    if len(set(ids)) != len(ids):
        raise CheckpointError(f"{vocabulary_path.name}: two tokens have one id", field=vocabulary_path.name)
    merges = _read_merges(merges_path)
    with _complaints(merges_path.name):
        model = models.BPE(vocab=vocabulary, merges=merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if END_OF_TEXT in vocabulary:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def _read_merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.rstrip("\r").split(" ")
        if len(parts) != 2:
            raise CheckpointError(f"{path.name}: line {number}: two tokens are needed", field=path.name)
        merges.append((parts[0], parts[1]))
    return merges


def write_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    path.write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False) + "\n", "utf-8")
