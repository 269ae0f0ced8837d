"""Text to token ids and back, for byte-level BPE (GPT-2's scheme: every token is a string of bytes)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from runtime.contract import is_byte_level
from runtime.errors import ModelError


def byte_characters() -> dict[str, int]:
    """The character that stands for each byte, as in `bytes_to_unicode` of GPT-2's encoder.py."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(256 + index): byte for index, byte in enumerate(others)},
    }


def open_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """Read a tokenizer.json; texts are neither truncated nor padded. Raises ModelError."""
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself for every defect of a file
        raise ModelError(f"{path.name}: not a readable tokenizer ({error})") from None
    return as_served(tokenizer)


def as_served(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same tokenizer, set up as `open_tokenizer` says."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class Encoders:
    """One tokenizer that reads special tokens in a text, and its copy that reads them as plain characters.

    Two, because the library has this as a setting of the tokenizer, for all threads.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._trusting = tokenizer

    def of(self, *, special_tokens: bool) -> tokenizers.Tokenizer:
        return self._trusting if special_tokens else self._plain

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """Made for the first request that needs it: it takes 0.1 s and 20 MB with GPT-2's vocabulary."""
        copy = tokenizers.Tokenizer.from_str(self._trusting.to_str())
        copy.encode_special_tokens = True
        return copy


class Tokenizer:
    """One vocabulary. Raises ModelError if it is not byte-level.

    `eos_token_id` need not be in it; a text that ends with that token gets no text from it.
    """

    def __init__(self, path: Path, eos_token_id: int | None) -> None:
        self.path = path
        self._tokenizer = open_tokenizer(path)
        self._encoders = Encoders(self._tokenizer)
        self.eos_token_id = eos_token_id
        description = json.loads(self._tokenizer.to_str())
        if not is_byte_level(description["decoder"]):
            found = (description["decoder"] or {}).get("type")
            raise ModelError(f"{path.name}: decoder {found}, but only ByteLevel is supported")
        self._contents = self._read_contents(description["added_tokens"])
        self._control = {token["id"] for token in description["added_tokens"] if token["special"]}
        if eos_token_id is not None:
            self._control.add(eos_token_id)

    def _read_contents(self, added_tokens: Iterable[dict[str, Any]]) -> list[bytes]:
        """The bytes of each token id; empty for an id that no token has."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        contents = [b""] * (
            max((*vocabulary.values(), *(token["id"] for token in added_tokens)), default=-1) + 1
        )
        characters = byte_characters()
        to_latin = {ord(character): chr(byte) for character, byte in characters.items()}
        alphabet = frozenset(characters)
        for text, token_id in vocabulary.items():
            in_alphabet = alphabet.issuperset(text)
            contents[token_id] = text.translate(to_latin).encode("latin-1") if in_alphabet else text.encode()
        for token in added_tokens:
            contents[token["id"]] = token["content"].encode()
        return contents

    @property
    def longest_token(self) -> int:
        """Bytes of the longest token, as a text spells it out."""
        return max(map(len, self._contents), default=0)

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; no control token is added.

        Those that the text spells out are recognized, unless `special_tokens` is false: then no text can end
        its document or forge a separator. Raises UnicodeEncodeError if `text` has a lone surrogate and so is
        not Unicode text.
        """
        text.encode()
        tokenizer = self._encoders.of(special_tokens=special_tokens)
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; control tokens have none, bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token adds to a text: none for a control token and for an id without a token."""
        return b"" if token_id in self._control else self.spelled(token_id)

    def spelled(self, token_id: int) -> bytes:
        """The bytes of the token in a text that spells control tokens out."""
        return self._contents[token_id] if 0 <= token_id < len(self._contents) else b""

    def token_text(self, token_id: int) -> str:
        """The token for a reader; stable, and different for tokens of different bytes.

        A control token is spelled out; a piece of a character reads `bytes:\\xe2\\x98`, as in OpenAI's
        completions.
        """
        if not 0 <= token_id < len(self._contents):
            return f"<|unused_{token_id}|>"
        content = self._contents[token_id]
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in content)
