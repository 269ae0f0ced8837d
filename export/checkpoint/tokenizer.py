"""The tokenizer of a checkpoint as one tokenizer.json that gives the ids of transformers' AutoTokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from export.checkpoint.added_tokens import END_OF_TEXT, MAX_ADDED_TOKENS, TokenizerSettings
from export.checkpoint.bpe_files import PAIRS, convert
from export.checkpoint.complaints import complaints
from export.checkpoint.config import ModelConfig
from export.checkpoint.prompts import PromptReader
from export.errors import CheckpointError
from export.reading import is_there, read_json_object
from runtime.contract import TOKENIZER_FILE, Kind, is_byte_level, shown

# Files of other kinds of tokenizers.
_FOREIGN = {
    "vocab.txt": "WordPiece",
    "spiece.model": "SentencePiece",
    "tokenizer.model": "SentencePiece",
    "sentencepiece.bpe.model": "SentencePiece",
}
_ONLY = "only GPT-2's byte-level BPE is served"
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


def read_tokenizer(folder: Path, config: ModelConfig) -> tuple[Tokenizer, tuple[str, ...]]:
    """The tokenizer of a checkpoint folder, and notes about it.

    Raises CheckpointError where none can be served.
    """
    settings = TokenizerSettings(folder)
    found, file = _find_tokenizer(folder, config, settings)
    added = settings.tokens([token.content for token in found.get_added_tokens_decoder().values()])
    with complaints(file):
        found.add_tokens(added)
    tokenizer, notes = _within(_with_prefix_space(found, settings), config.vocab_size)
    tokenizer = _checked(tokenizer, config.vocab_size)
    with complaints(TOKENIZER_FILE):
        readable = next(PromptReader.of(tokenizer, config).shortest(), None)
    if readable is None:
        raise _refused(
            f"no text becomes a token that fits the context: {config.context_length} tokens (n_positions)"
        )
    return tokenizer, notes


def _find_tokenizer(folder: Path, config: ModelConfig, settings: TokenizerSettings) -> tuple[Tokenizer, str]:
    """The tokenizer as its files say, and the first of them."""
    if is_there(folder / TOKENIZER_FILE):
        return _read(folder / TOKENIZER_FILE, config.head.kind), TOKENIZER_FILE
    for vocabulary, merges in PAIRS:
        if is_there(folder / vocabulary) and is_there(folder / merges):
            begin = settings.token("bos_token") if settings.flag("add_bos_token") else None
            return convert(folder / vocabulary, folder / merges, begin), vocabulary
    for name, kind in _FOREIGN.items():
        if is_there(folder / name):
            raise CheckpointError(f"{name}: a {kind} tokenizer, but {_ONLY}", field=name)
    raise CheckpointError(
        f"{TOKENIZER_FILE}: missing, and no vocab.json + merges.txt or encoder.json + vocab.bpe either",
        field=TOKENIZER_FILE,
    )


def _with_prefix_space(tokenizer: Tokenizer, settings: TokenizerSettings) -> Tokenizer:
    """With a space before a text where tokenizer_config.json says so, and only there, as in transformers."""
    data = json.loads(tokenizer.to_str())
    part, wanted = data["pre_tokenizer"], settings.flag("add_prefix_space")
    if part is None or part.get("add_prefix_space", wanted) is wanted:
        return tokenizer
    part["add_prefix_space"] = wanted
    return Tokenizer.from_str(json.dumps(data))


def _within(tokenizer: Tokenizer, vocab_size: int) -> tuple[Tokenizer, tuple[str, ...]]:
    """Without special tokens beyond the embedding, which no text can have then, and a note about them."""
    data = json.loads(tokenizer.to_str())
    beyond = [token for token in data["added_tokens"] if token["special"] and token["id"] >= vocab_size]
    if not beyond:
        return tokenizer, ()
    names = [token["content"] for token in beyond]
    data["added_tokens"] = [token for token in data["added_tokens"] if token not in beyond]
    vocabulary = data["model"].get("vocab")
    if isinstance(vocabulary, dict):
        made = {left + right for left, right in data["model"].get("merges", ())}
        for name in names:
            if len(name) > 1 and name not in made:
                vocabulary.pop(name, None)
    with complaints(TOKENIZER_FILE):
        tokenizer = Tokenizer.from_str(json.dumps(data))
    # transformers adds this one to every GPT-2 tokenizer without it.
    named = [f"{token['content']} ({token['id']})" for token in beyond if token["content"] != END_OF_TEXT]
    if not named:
        return tokenizer, ()
    return tokenizer, (f"{', '.join(named[:8])}: beyond the embedding of {vocab_size} tokens, left out",)


def open_tokenizer(path: Path, vocab_size: int, kind: Kind) -> Tokenizer:
    """Read a tokenizer.json with token ids below `vocab_size`, set up to encode text as the engine does.

    Raises CheckpointError.
    """
    return _checked(_read(path, kind), vocab_size)


def _read(path: Path, kind: Kind) -> Tokenizer:
    data = read_json_object(path)
    _check_parts(data)
    if kind is Kind.LM and not is_byte_level(data.get("decoder")):
        raise _refused(f"decoder: {_types_of(data.get('decoder'))}, but {_ONLY} as a language model's")
    with complaints(TOKENIZER_FILE):
        tokenizer = Tokenizer.from_file(str(path))
    if not tokenizer.get_vocab(with_added_tokens=True):
        raise _refused("the vocabulary is empty")
    return tokenizer


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
    token, largest = max(vocabulary.items(), key=lambda item: item[1])
    if largest >= vocab_size:
        raise _refused(f"token {shown(token)} has id {largest}, beyond vocab_size {vocab_size}", "vocab_size")
    # Truncation or padding that a trainer stored would silently change prompts.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with complaints(TOKENIZER_FILE, "does not read any text: "):
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


def write_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    path.write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False) + "\n", "utf-8")
