"""Tokens that transformers adds to a tokenizer, from the small files beside it.

The order and the flags are those of `PreTrainedTokenizerFast.__init__` and `_from_pretrained` (transformers
4.57), so that the added tokens get the same ids.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from export.checkpoint.chat import TOKENIZER_CONFIG_FILE
from export.checkpoint.config_reader import CONFIG_FILE
from export.errors import CheckpointError
from export.reading import is_there, read_json_object
from runtime.contract import shown

SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
END_OF_TEXT = "<|endoftext|>"
MAX_ADDED_TOKENS = 10_000  # the library compares them with each other
MAX_TOKEN_LENGTH = 1000  # characters
# In the order in which transformers adds them.
_SINGLE = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MORE = "additional_special_tokens"
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
_GPT2_CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast")


class TokenizerSettings:
    """tokenizer_config.json with what special_tokens_map.json and added_tokens.json say; each may be absent.

    Raises CheckpointError that names the file.
    """

    def __init__(self, folder: Path) -> None:
        self._values = _read(folder, TOKENIZER_CONFIG_FILE)
        if self.flag("split_special_tokens"):
            raise _refused(
                TOKENIZER_CONFIG_FILE,
                "split_special_tokens: true is not served: send the requests with special_tokens: false",
            )
        kind = self._values.get("tokenizer_class") or _read(folder, CONFIG_FILE).get("tokenizer_class")
        # GPT-2's class has these defaults, any other class has none.
        self._default = END_OF_TEXT if kind in _GPT2_CLASSES else None
        self._added: list[AddedToken] = []
        self._map: dict[str, Any] = {}
        decoder = self._values.get("added_tokens_decoder")
        if decoder is not None:  # the later form of both files
            self._added = _in_order(TOKENIZER_CONFIG_FILE, decoder)
            return
        self._map = _read(folder, SPECIAL_TOKENS_FILE)
        special = {token.content for token in self._special_tokens()}
        for content, _ in sorted(_ids(_read(folder, ADDED_TOKENS_FILE)), key=lambda item: item[1]):
            is_special = content in special
            self._added.append(AddedToken(content, special=is_special, normalized=not is_special))

    def flag(self, name: str) -> bool:
        """A switch of tokenizer_config.json, false where it is absent."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, bool):
            raise _refused(TOKENIZER_CONFIG_FILE, f"{name}: {shown(value)}: true or false is needed")
        return bool(value)

    def token(self, name: str) -> str | None:
        """The text of `bos_token` or another single special token."""
        return next((token.content for key, token in self._singles() if key == name), None)

    def tokens(self, existing: Collection[str]) -> list[AddedToken]:
        """What to add to a tokenizer that has the added tokens `existing`, in this order."""
        special = list(self._special_tokens())
        contents = {token.content for token in special}
        for token in self._added:
            token.special = token.special or token.content in contents
        there = {*existing, *(token.content for token in self._added)}
        tokens = [*self._added, *(token for token in special if token.content not in there)]
        if len(tokens) > MAX_ADDED_TOKENS:
            raise _refused(
                ADDED_TOKENS_FILE, f"{len(tokens)} tokens, but at most {MAX_ADDED_TOKENS} are read"
            )
        return tokens

    def _special_tokens(self) -> Iterator[AddedToken]:
        for _, token in self._singles():
            yield token
        more = self._map.get(_MORE) or self._values.get(_MORE) or []
        if not isinstance(more, list):
            raise _refused(self._file_of(_MORE), f"{_MORE}: a list of tokens is needed")
        for value in more:
            yield _special(self._file_of(_MORE), _MORE, value)

    def _singles(self) -> Iterator[tuple[str, AddedToken]]:
        for name in _SINGLE:
            default = self._default if name in ("bos_token", "eos_token", "unk_token") else None
            present = name in self._map or name in self._values
            value = self._map.get(name, self._values.get(name)) if present else default
            if value is not None:
                yield name, _special(self._file_of(name), name, value)

    def _file_of(self, name: str) -> str:
        return SPECIAL_TOKENS_FILE if name in self._map else TOKENIZER_CONFIG_FILE


def _read(folder: Path, name: str) -> dict[str, Any]:
    return read_json_object(folder / name) if is_there(folder / name) else {}


def _ids(table: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The tokens of added_tokens.json with their ids."""
    for content, number in table.items():
        if type(number) is not int:
            raise _refused(ADDED_TOKENS_FILE, f"{shown(content)}: {shown(number)} is no id")
        yield _checked(ADDED_TOKENS_FILE, "a token", content), number


def _in_order(file: str, decoder: Any) -> list[AddedToken]:
    if not isinstance(decoder, dict) or not all(key.isascii() and key.isdecimal() for key in decoder):
        raise _refused(file, "added_tokens_decoder: an object from ids to tokens is needed")
    ordered = sorted(decoder.items(), key=lambda item: (len(item[0]), item[0]))
    return [_token(file, f"added_tokens_decoder.{number}", value) for number, value in ordered]


def _special(file: str, name: str, value: Any) -> AddedToken:
    if isinstance(value, str):
        return AddedToken(_checked(file, name, value), special=True, normalized=False)
    token = _token(file, name, value)
    token.special = True
    return token


def _token(file: str, name: str, value: Any) -> AddedToken:
    if not isinstance(value, dict):
        raise _refused(file, f"{name}: {shown(value)}: a token is needed")
    flags = {flag: value[flag] for flag in _FLAGS if flag in value}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise _refused(file, f"{name}: its flags are true or false")
    return AddedToken(_checked(file, name, value.get("content")), **flags)


def _checked(file: str, name: str, content: Any) -> str:
    if not isinstance(content, str) or not 0 < len(content) <= MAX_TOKEN_LENGTH:
        raise _refused(
            file, f"{name}: {shown(content)}: a text of 1 to {MAX_TOKEN_LENGTH} characters is needed"
        )
    return content


def _refused(file: str, why: str) -> CheckpointError:
    return CheckpointError(f"{file}: {why}", field=file)
