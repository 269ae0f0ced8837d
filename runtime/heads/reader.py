"""Texts to rows of token ids, as a classifier or an nlu model was trained to read them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import tokenizers

from runtime.contract import Kind
from runtime.errors import ModelError, RequestFault
from runtime.manifest import MANIFEST_FILE, Manifest, head_row
from runtime.text import Encoders

TEXT, TEXT_PAIR, TEMPERATURE = "text", "text_pair", "temperature"
REGRESSION = "regression"


@dataclass(frozen=True, slots=True)
class HeadInput:
    text: str
    text_pair: str | None = None
    temperature: float = 1.0  # by which the logits of the labels are divided; those of slots are not
    special_tokens: bool = True  # read those that the text spells out; false: as plain characters


@dataclass(frozen=True, slots=True)
class Row:
    """One text ready for the graph."""

    text: str
    ids: list[int]
    encoding: tokenizers.Encoding
    tagged_from: int = 0  # index in `ids` of the first token that is tagged: the first token of `encoding`
    temperature: float = 1.0


class Reader:
    """Tokenizes texts for a head; `manifest.head_row` says how a text's tokens become a row.

    A classifier reads `tokenizer.encode(text, pair)` with the special tokens of the tokenizer's template.
    """

    def __init__(self, manifest: Manifest, tokenizer: tokenizers.Tokenizer) -> None:
        self._encoders = Encoders(tokenizer)
        self._kind = manifest.kind
        self._architecture = manifest.architecture
        self._nlu_echo = manifest.nlu_echo
        self._is_nlu = manifest.kind is Kind.NLU
        self._is_regression = manifest.problem_type == REGRESSION
        if manifest.nlu_echo and manifest.architecture.eos_token_id is None:
            raise ModelError(f"{MANIFEST_FILE}: nlu_echo needs an eos_token_id")
        context = manifest.architecture.context_length
        self._limit = (context - 1) // 2 if manifest.nlu_echo else context  # tokens of a text

    def read(self, items: Sequence[HeadInput]) -> list[Row | RequestFault]:
        """Row by row; a fault names `text` or `text_pair` where it is empty, too long or no text at all."""
        faults = [self._fault(item) for item in items]
        good = [item for item, fault in zip(items, faults, strict=True) if fault is None]
        encoded = {flag: self._encode(good, flag) for flag in {item.special_tokens for item in good}}
        rows = (self._row(item, next(encoded[item.special_tokens])) for item in good)
        return [next(rows) if fault is None else fault for fault in faults]

    def _encode(self, items: Sequence[HeadInput], special_tokens: bool) -> Iterator[tokenizers.Encoding]:
        """Of the items with this flag, in their order."""
        texts = [
            item.text if item.text_pair is None else (item.text, item.text_pair)
            for item in items
            if item.special_tokens is special_tokens
        ]
        tokenizer = self._encoders.of(special_tokens=special_tokens)
        # Only slots need to know where in the text each token is, and that costs a quarter of the time.
        encode = tokenizer.encode_batch if self._is_nlu else tokenizer.encode_batch_fast
        return iter(encode(texts, add_special_tokens=not self._is_nlu))

    def _row(self, item: HeadInput, encoding: tokenizers.Encoding) -> Row | RequestFault:
        parts, ids = set(encoding.sequence_ids), encoding.ids
        for part, field in enumerate((TEXT, TEXT_PAIR)[: 1 if item.text_pair is None else 2]):
            if part not in parts:
                return RequestFault.invalid(field, "nothing is left of it after the model's own clean-up")
        if len(ids) > self._limit:
            return self._too_long(item, len(ids))
        row = head_row(ids, self._kind, self._architecture, self._nlu_echo)
        tagged_from = len(row) - len(ids) if self._is_nlu else 0
        return Row(item.text, row, encoding, tagged_from, item.temperature)

    def _fault(self, item: HeadInput) -> RequestFault | None:
        """What is wrong before it is encoded."""
        try:
            self._check(TEXT, item.text)
            if item.text_pair is not None:
                self._check(TEXT_PAIR, item.text_pair)
        except RequestFault as fault:
            return fault
        if item.text_pair is not None and self._is_nlu:
            return RequestFault.invalid(TEXT_PAIR, "a model of kind nlu reads one text; leave it out")
        if not 0 < item.temperature < math.inf:
            return RequestFault.invalid(TEMPERATURE, f"{item.temperature}, but it must be above 0 and finite")
        if self._is_regression and item.temperature != 1:
            return RequestFault.invalid(TEMPERATURE, "a regression has values and no probabilities")
        return None

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
            return RequestFault.too_long(TEXT, f"{count} tokens, but {limit}")
        tokenizer = self._encoders.of(special_tokens=item.special_tokens)
        alone = len(tokenizer.encode(item.text, add_special_tokens=not self._is_nlu).ids)
        if alone > self._limit:
            return RequestFault.too_long(TEXT, f"{alone} tokens, but {limit}")
        return RequestFault.too_long(TEXT_PAIR, f"{count} tokens together with text ({alone}), but {limit}")
