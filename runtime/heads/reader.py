"""Texts to rows of token ids as a classifier or an nlu model was taught to read them."""

from __future__ import annotations

from dataclasses import dataclass

import tokenizers

from runtime.contract import Kind, Manifest
from runtime.errors import RequestFault

TEXT, TEXT_PAIR = "text", "text_pair"


@dataclass(frozen=True, slots=True)
class HeadInput:
    text: str
    text_pair: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One text ready for the graph."""

    text: str
    ids: list[int]
    encoding: tokenizers.Encoding
    tagged_from: int = 0  # where in `ids` the tokens of `encoding` stand that are tagged


class Reader:
    """A classifier reads `tokenizer.encode(text, pair)` with the special tokens of the tokenizer's template.

    An nlu model reads the text's own tokens, or with `nlu_echo` those, an end-of-text token and those again.
    """

    def __init__(self, manifest: Manifest, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._is_nlu = manifest.kind is Kind.NLU
        self._echo = manifest.nlu_echo
        self._eos = manifest.architecture.eos_token_id
        context = manifest.architecture.context_length
        self._limit = (context - 1) // 2 if self._echo else context  # tokens of a text

    def read(self, item: HeadInput) -> Row:
        """Raises RequestFault naming `text` or `text_pair` where it is empty, too long or no text at all."""
        self._check(TEXT, item.text)
        if item.text_pair is not None:
            self._check(TEXT_PAIR, item.text_pair)
            if self._is_nlu:
                raise RequestFault.invalid(TEXT_PAIR, "a model of kind nlu reads one text; leave it out")
        encoding = self._tokenizer.encode(item.text, item.text_pair, add_special_tokens=not self._is_nlu)
        parts = set(encoding.sequence_ids)
        for part, field in enumerate((TEXT, TEXT_PAIR)[: 1 if item.text_pair is None else 2]):
            if part not in parts:
                raise RequestFault.invalid(field, "nothing is left of it after the model's own clean-up")
        if len(encoding.ids) > self._limit:
            raise self._too_long(item, len(encoding.ids))
        if not self._echo:
            return Row(item.text, encoding.ids, encoding)
        return Row(item.text, [*encoding.ids, self._eos, *encoding.ids], encoding, len(encoding.ids) + 1)

    @staticmethod
    def _check(field: str, text: str) -> None:
        if not text:
            raise RequestFault.invalid(field, "empty; at least one character is needed")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            where = f"a lone surrogate at character {error.start}"
            raise RequestFault.invalid(field, f"not Unicode text: {where}") from None

    def _too_long(self, item: HeadInput, count: int) -> RequestFault:
        limit = f"this model reads at most {self._limit}"
        if item.text_pair is None:
            return RequestFault.invalid(TEXT, f"{count} tokens, but {limit}")
        alone = len(self._tokenizer.encode(item.text, add_special_tokens=not self._is_nlu).ids)
        if alone > self._limit:
            return RequestFault.invalid(TEXT, f"{alone} tokens, but {limit}")
        return RequestFault.invalid(TEXT_PAIR, f"{count} tokens together with text ({alone}), but {limit}")
