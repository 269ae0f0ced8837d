"""What the fp32 graph answers, and how far the other variants' answers lie from it.

The texts are deterministic: a checkpoint has the same golden prompts and cards whenever it is exported. One
graph is open at a time; what fp32 answered waits in a file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from tokenizers import Tokenizer

from export.checkpoint.config import Head, ModelConfig
from export.errors import CheckpointError
from export.quality.card import Card, agreement_length, head_card, language_card
from export.quality.texts import head_texts, head_token_ids, language_rows
from export.session import Floats, HeadSession, LanguageSession
from runtime.contract import GoldenAnswer, GoldenPrompt, Variant

GOLDEN_PROMPTS = 4
GOLDEN_PROMPT_TOKENS = 12
GOLDEN_ANSWER_TOKENS = 8
GREEDY_PROMPT_TOKENS = 8
GREEDY_TOKENS = 32
# Rows that are generated together: as many as have a cache of so many bytes, for it is beside the weights.
LEAST_AT_ONCE, MOST_AT_ONCE = 4, 32
CACHE_BYTES = 1 << 25
LEAST_ROWS = 8
ROW_TOKENS = 64
MAX_TOKENS = 4096
# The smaller a model, the more text is quick: so many multiplications, and so many logits on the disk.
MULTIPLICATIONS = 1e11
LOGITS = 1 << 26

Tell = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """One variant as it was seen: its own answers to the golden prompts, and how far it is from fp32."""

    golden: tuple[GoldenAnswer, ...]
    load_seconds: float  # until it had answered the golden prompts
    quality: Card | None  # None for fp32 itself


class Reference(Protocol):
    """The texts and fp32's answers to them; `measure` fp32 first."""

    prompts: tuple[GoldenPrompt, ...]
    rows: list[list[int]]  # token ids of the texts

    def measure(self, graph: Path, variant: Variant, tell: Tell) -> Measured:
        """Run a variant's graph over the texts; `tell` gets the share that is done."""


def open_reference(
    graph: Path,
    config: ModelConfig,
    tokenizer: Tokenizer,
    calibration: str | None,
    scratch: IO[bytes],
    tell: Tell,
) -> Reference:
    """The reference for the fp32 `graph` of any kind, on `calibration` text where there is some.

    `scratch` is an empty file that stays open as long as the reference is used.
    """
    if config.head is Head.LM:
        reference = LanguageReference(config, tokenizer, scratch)
        reference.read(graph, calibration, tell)
        return reference
    return HeadReference(config, tokenizer, calibration)


class LanguageReference:
    """Text that is given or that the model writes itself, and its own greedy answers."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, scratch: IO[bytes]) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._logits = scratch
        self._context = min(config.context_length, ROW_TOKENS)
        self._at_once = rows_at_once(config, self._context)
        self._answer_tokens = min(GOLDEN_ANSWER_TOKENS, self._context - 1)

    def read(self, graph: Path, calibration: str | None, tell: Tell) -> None:
        """Settle the texts, with the fp32 `graph` where it is to write them."""
        session = self._open(graph, Variant.FP32)
        count = rows_that_are_quick(self._config, self._context)
        if calibration is not None:
            self.rows = language_rows(calibration, self._tokenizer, count, self._context)
        else:
            self.rows = self._write_rows(session, count, tell)
        self.prompts = tuple(GoldenPrompt(text) for text in self._golden_texts())
        self._greedy = self._greedy_answers(session)

    def measure(self, graph: Path, variant: Variant, tell: Tell) -> Measured:
        begin = time.perf_counter()
        session = self._open(graph, variant)
        golden = self._golden(session)
        load_seconds = time.perf_counter() - begin
        if variant is Variant.FP32:
            self._logits.seek(0)
            for row in self._answers(session, tell):
                self._logits.write(row.data.cast("B"))
                del row  # before there is another
            return Measured(golden, load_seconds, None)
        agreements = [self._agreement(session, *pair) for pair in self._greedy]
        card = language_card(self._pairs(session, tell), agreements, len(self._greedy[0][1]))
        return Measured(golden, load_seconds, card)

    def _open(self, graph: Path, variant: Variant) -> LanguageSession:
        architecture = self._config.architecture
        return LanguageSession(graph, variant, architecture, self._at_once, self._context)

    def _write_rows(self, session: LanguageSession, count: int, tell: Tell) -> list[list[int]]:
        """Sampled at temperature 1 from the beginning of a text on."""
        eos, random = self._config.eos_token_id, np.random.default_rng(0)
        rows: list[list[int]] = []
        while len(rows) < count:
            begin = [[eos]] * min(self._at_once, count - len(rows))
            tokens, logprobs = session.generate(begin, self._context - 1, random)
            _require_finite(logprobs)
            rows += [[eos, *map(int, row)] for row in tokens]
            tell(len(rows) / count)
        return rows

    def _greedy_answers(self, session: LanguageSession) -> list[tuple[list[int], list[int]]]:
        """The beginnings of some rows, and how fp32 goes on."""
        beginnings = [row[:GREEDY_PROMPT_TOKENS] for row in self.rows[:LEAST_ROWS]]
        count = min(GREEDY_TOKENS, self._context - max(map(len, beginnings)))
        answers: list[list[int]] = []
        for start in range(0, len(beginnings), self._at_once):
            tokens, _ = session.generate(beginnings[start : start + self._at_once], count)
            answers += [[int(token) for token in row] for row in tokens]
        return list(zip(beginnings, answers, strict=True))

    def _golden_texts(self) -> list[str]:
        """Beginnings of the rows that stay the same tokens when they are read as text."""
        texts: dict[str, None] = {}
        for row in self.rows:
            # Bytes that make no whole character would come back from the text as other tokens.
            text = self._tokenizer.decode(row[1 : 1 + GOLDEN_PROMPT_TOKENS]).replace("\ufffd", "")
            if 0 < len(self._ids(text)) <= self._context - GOLDEN_ANSWER_TOKENS:
                texts[text] = None
        return list(texts)[:GOLDEN_PROMPTS]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _golden(self, session: LanguageSession) -> tuple[GoldenAnswer, ...]:
        if not self.prompts:
            return ()
        tokens, logprobs = session.generate(
            [self._ids(prompt.text) for prompt in self.prompts], self._answer_tokens
        )
        _require_finite(logprobs)
        return tuple(
            GoldenAnswer(token_ids=tuple(map(int, row)), logprobs=tuple(map(_short, scores)))
            for row, scores in zip(tokens, logprobs, strict=True)
        )

    def _answers(self, session: LanguageSession, tell: Tell) -> Iterator[Floats]:
        """Row by row, as all logits at once would be the largest thing in an export."""
        for number, row in enumerate(self.rows, start=1):
            yield session.prefill([row[:-1]], every_row=True)
            tell(number / len(self.rows))

    def _pairs(self, session: LanguageSession, tell: Tell) -> Iterator[tuple[Floats, Floats, list[int]]]:
        self._logits.seek(0)
        for row, found in zip(self.rows, self._answers(session, tell), strict=True):
            expected = np.frombuffer(self._logits.read(found.nbytes), np.float32).reshape(found.shape)
            yield expected, found, row[1:]

    def _agreement(self, session: LanguageSession, beginning: list[int], answer: list[int]) -> int:
        logits = session.prefill([[*beginning, *answer[:-1]]], every_row=True)
        return agreement_length(logits[len(beginning) - 1 :], answer)


def rows_at_once(config: ModelConfig, length: int) -> int:
    """How many rows of `length` tokens are generated together."""
    row = 2 * 4 * config.num_layers * config.hidden_size * length  # bytes: keys and values in float32
    return max(LEAST_AT_ONCE, min(MOST_AT_ONCE, CACHE_BYTES // row))


def rows_that_are_quick(config: ModelConfig, length: int) -> int:
    """How many rows of `length` tokens a model of this size is compared on."""
    per_token = config.num_layers * config.hidden_size * (4 * config.hidden_size + 2 * config.inner_size)
    per_token += config.vocab_size * config.hidden_size
    tokens = min(MAX_TOKENS, MULTIPLICATIONS / per_token, LOGITS / config.vocab_size)
    return max(LEAST_ROWS, int(tokens / length))


class HeadReference:
    """Sentences, tokenized as the engine does, and the fp32 logits."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, calibration: str | None) -> None:
        self._config = config
        texts = head_texts(calibration, config.head.kind)
        readable = [(text, ids) for text in texts if (ids := head_token_ids(tokenizer, text, config))]
        self.prompts = tuple(text for text, _ in readable[:GOLDEN_PROMPTS])
        # A context too short for every sentence leaves one token to compare by.
        self.rows = [ids for _, ids in readable] or [[config.eos_token_id]]
        self._expected: list[tuple[Floats, Floats | None]] = []

    def measure(self, graph: Path, variant: Variant, tell: Tell) -> Measured:
        begin = time.perf_counter()
        session = HeadSession(graph, variant)
        golden = tuple(
            GoldenAnswer(
                scores=tuple(map(_short, labels)),
                slot_scores=() if slots is None else tuple(map(_short, slots[-1])),
            )
            for labels, slots in session.run(self.rows[: len(self.prompts)])
        )
        load_seconds = time.perf_counter() - begin
        found = []
        for number, answer in enumerate(session.run(self.rows), start=1):
            for values in answer:
                if values is not None:
                    _require_finite(values)
            found.append(answer)
            tell(number / len(self.rows))
        if variant is Variant.FP32:
            self._expected = found
            return Measured(golden, load_seconds, None)
        pairs = zip(self._expected, found, strict=True)
        return Measured(golden, load_seconds, head_card(pairs, self._config.problem_type))


def _require_finite(values: Floats) -> None:
    """Each weight may be a number and their products none."""
    if not np.isfinite(values).all():
        raise CheckpointError("the model answers NaN or infinity: its weights are too large to compute with")


def _short(value: float) -> float:
    """Six significant digits: the last bits differ between processors."""
    return float(f"{float(value):.6g}")
