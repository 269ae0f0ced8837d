"""The answers of the fp32 graph, and the distance of the other variants' answers from them.

The texts are deterministic: each export of a checkpoint has the same golden prompts and cards. Only one graph
is open at a time; the answers of fp32 are kept in a file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from tokenizers import Tokenizer

from export.checkpoint.config import Head, ModelConfig
from export.checkpoint.prompts import PromptReader
from export.errors import CheckpointError
from export.evaluation.card import Card, agreement_length, head_card, language_card
from export.evaluation.texts import language_rows, readable_texts
from export.progress import OnProgress
from export.session import Floats, HeadSession, LanguageSession
from runtime.contract import Variant
from runtime.manifest import GoldenAnswer, GoldenPrompt

GOLDEN_PROMPTS = 4
GOLDEN_PROMPT_TOKENS = 12
GOLDEN_ANSWER_TOKENS = 8
GREEDY_PROMPT_TOKENS = 8
GREEDY_TOKENS = 32
# Rows that are generated together: their cache takes about CACHE_BYTES, in addition to the weights.
LEAST_AT_ONCE, MOST_AT_ONCE = 4, 32
CACHE_BYTES = 1 << 25
LEAST_ROWS = 8
ROW_TOKENS = 64
MAX_TOKENS = 4096
# Bounds of the compared text, so that it is quick: multiplications, and logits on the disk.
MULTIPLICATIONS = 1e11
LOGITS = 1 << 26
CALIBRATION_TIMES = 4  # more text than is compared


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one variant: its answers to the golden prompts, and its distance from fp32."""

    golden: tuple[GoldenAnswer, ...]
    load_seconds: float  # until the golden prompts were answered
    quality: Card | None  # None for fp32 itself


class Reference(Protocol):
    """The texts and fp32's answers to them; `measure` fp32 first."""

    prompts: tuple[GoldenPrompt, ...]
    rows: list[list[int]]  # token ids of the texts

    def measure(self, graph: Path, variant: Variant, on_progress: OnProgress) -> Measured:
        """Run a variant's graph over the texts; `on_progress` gets the share that is done."""

    def calibration_rows(self, graph: Path, on_progress: OnProgress) -> list[list[int]]:
        """Token ids of other texts: weights may be fitted to them, and no variant is compared on them."""


def open_reference(
    graph: Path,
    config: ModelConfig,
    tokenizer: Tokenizer,
    calibration: str | None,
    scratch: IO[bytes],
    on_progress: OnProgress,
) -> Reference:
    """The reference for the fp32 `graph` of any kind, with the `calibration` text where it is given.

    `scratch` is an empty file that stays open as long as the reference is used.
    """
    if config.head is Head.LM:
        reference = LanguageReference(config, tokenizer, scratch)
        reference.read(graph, calibration, on_progress)
        return reference
    return HeadReference(config, tokenizer, calibration)


class LanguageReference:
    """Texts that are given, or that the model writes itself, and the greedy answers of fp32."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, scratch: IO[bytes]) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._reader = PromptReader.of(tokenizer, config)
        self._logits = scratch
        self._context = min(config.context_length, ROW_TOKENS)
        self._at_once = rows_at_once(config, self._context)
        # Prompt and answer share a short context.
        self._half = self._context // 2
        self._answer_tokens = min(GOLDEN_ANSWER_TOKENS, self._half)

    def read(self, graph: Path, calibration: str | None, on_progress: OnProgress) -> None:
        """Choose the texts; without calibration text the fp32 `graph` writes them."""
        session = self._open(graph, Variant.FP32)
        count = rows_that_are_quick(self._config, self._context)
        if calibration is not None:
            self.rows = language_rows(calibration, self._tokenizer, count, self._context)
        else:
            self.rows = self._write_rows(session, count, on_progress, np.random.default_rng(0))
        self.prompts = self._settle_prompts()
        self._greedy = self._greedy_answers(session)

    def measure(self, graph: Path, variant: Variant, on_progress: OnProgress) -> Measured:
        begin = time.perf_counter()
        session = self._open(graph, variant)
        golden = self._golden(session)
        load_seconds = time.perf_counter() - begin
        if variant is Variant.FP32:
            self._logits.seek(0)
            for row in self._answers(session, on_progress):
                self._logits.write(row.data.cast("B"))
                del row  # free it before the next one
            return Measured(golden, load_seconds, None)
        agreements = [self._agreement(session, *pair) for pair in self._greedy]
        card = language_card(self._pairs(session, on_progress), agreements, len(self._greedy[0][1]))
        return Measured(golden, load_seconds, card)

    def _open(self, graph: Path, variant: Variant) -> LanguageSession:
        architecture = self._config.architecture
        return LanguageSession(graph, variant, architecture, self._at_once, self._context)

    def calibration_rows(self, graph: Path, on_progress: OnProgress) -> list[list[int]]:
        """The model writes them, as texts that are given may all be among those that are compared."""
        count = rows_that_are_quick(self._config, self._context, CALIBRATION_TIMES)
        return self._write_rows(self._open(graph, Variant.FP32), count, on_progress, np.random.default_rng(1))

    def _write_rows(
        self, session: LanguageSession, count: int, on_progress: OnProgress, random: np.random.Generator
    ) -> list[list[int]]:
        """Texts sampled at temperature 1; each starts with the end-of-text token, or else a random one."""
        rows: list[list[int]] = []
        while len(rows) < count:
            begin = [[self._first_token(random)] for _ in range(min(self._at_once, count - len(rows)))]
            tokens, logprobs = session.generate(begin, self._context - 1, random)
            _require_finite(logprobs)
            rows += [[*first, *map(int, row)] for first, row in zip(begin, tokens, strict=True)]
            on_progress(len(rows) / count)
        return rows

    def _first_token(self, random: np.random.Generator) -> int:
        if self._config.eos_token_id is None:
            return int(random.integers(self._config.vocab_size))
        return self._config.eos_token_id

    def _greedy_answers(self, session: LanguageSession) -> list[tuple[list[int], list[int]]]:
        """The beginnings of some rows with the greedy continuations of fp32."""
        beginnings = [row[: min(GREEDY_PROMPT_TOKENS, self._half)] for row in self.rows[:LEAST_ROWS]]
        count = min(GREEDY_TOKENS, self._context - max(map(len, beginnings)))
        answers: list[list[int]] = []
        for start in range(0, len(beginnings), self._at_once):
            tokens, _ = session.generate(beginnings[start : start + self._at_once], count)
            answers += [[int(token) for token in row] for row in tokens]
        return list(zip(beginnings, answers, strict=True))

    def _golden_prompts(self) -> Iterator[GoldenPrompt]:
        """Beginnings of the rows as text, then the shortest texts that the model can read."""
        room = self._context - self._answer_tokens
        for row in self.rows:
            # Bytes of an incomplete character would be encoded as other tokens.
            text = self._tokenizer.decode(row[1 : 1 + min(GOLDEN_PROMPT_TOKENS, room)]).replace("\ufffd", "")
            yield GoldenPrompt(text)
        yield from self._reader.shortest()

    def _settle_prompts(self) -> tuple[GoldenPrompt, ...]:
        room = self._context - self._answer_tokens
        prompts: dict[GoldenPrompt, None] = {}
        for prompt in self._golden_prompts():
            if 0 < len(self._reader.token_ids(prompt)) <= room:
                prompts[prompt] = None
            if len(prompts) == GOLDEN_PROMPTS:
                break
        return tuple(prompts)

    def _golden(self, session: LanguageSession) -> tuple[GoldenAnswer, ...]:
        tokens, logprobs = session.generate(
            [self._reader.token_ids(prompt) for prompt in self.prompts], self._answer_tokens
        )
        _require_finite(logprobs)
        return tuple(
            GoldenAnswer(token_ids=tuple(map(int, row)), logprobs=tuple(map(_short, scores)))
            for row, scores in zip(tokens, logprobs, strict=True)
        )

    def _answers(self, session: LanguageSession, on_progress: OnProgress) -> Iterator[Floats]:
        """Row by row: the logits of all rows at once would need more memory than the rest of an export."""
        for number, row in enumerate(self.rows, start=1):
            yield session.prefill([row[:-1]], every_row=True)
            on_progress(number / len(self.rows))

    def _pairs(
        self, session: LanguageSession, on_progress: OnProgress
    ) -> Iterator[tuple[Floats, Floats, list[int]]]:
        self._logits.seek(0)
        for row, found in zip(self.rows, self._answers(session, on_progress), strict=True):
            expected = np.frombuffer(self._logits.read(found.nbytes), np.float32).reshape(found.shape)
            yield expected, found, row[1:]

    def _agreement(self, session: LanguageSession, beginning: list[int], answer: list[int]) -> int:
        logits = session.prefill([[*beginning, *answer[:-1]]], every_row=True)
        return agreement_length(logits[len(beginning) - 1 :], answer)


def rows_at_once(config: ModelConfig, length: int) -> int:
    """The number of rows of `length` tokens that are generated together."""
    row = 2 * 4 * config.num_layers * config.hidden_size * length  # bytes: keys and values in float32
    return max(LEAST_AT_ONCE, min(MOST_AT_ONCE, CACHE_BYTES // row))


def rows_that_are_quick(config: ModelConfig, length: int, times: int = 1) -> int:
    """The number of rows of `length` tokens on which a model of this size is compared, or `times` more."""
    per_token = config.num_layers * config.hidden_size * (4 * config.hidden_size + 2 * config.inner_size)
    per_token += config.vocab_size * config.hidden_size
    tokens = min(MAX_TOKENS, MULTIPLICATIONS / per_token, LOGITS / config.vocab_size)
    return max(LEAST_ROWS, int(times * tokens / length))


class HeadReference:
    """Sentences, tokenized as in the engine, and the logits of fp32 for them."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, calibration: str | None) -> None:
        self._config = config
        readable = readable_texts(PromptReader.of(tokenizer, config), calibration)
        self.prompts = tuple(text for text, _ in readable[:GOLDEN_PROMPTS])
        self.rows = [ids for _, ids in readable]
        self._expected: list[tuple[Floats, Floats | None]] = []

    def measure(self, graph: Path, variant: Variant, on_progress: OnProgress) -> Measured:
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
            on_progress(number / len(self.rows))
        if variant is Variant.FP32:
            self._expected = found
            return Measured(golden, load_seconds, None)
        pairs = zip(self._expected, found, strict=True)
        return Measured(golden, load_seconds, head_card(pairs, self._config.problem_type))

    def calibration_rows(self, graph: Path, on_progress: OnProgress) -> list[list[int]]:
        """The halves of each two texts, joined."""
        on_progress(1)
        others = [*self.rows[7:], *self.rows[:7]]
        pairs = zip(self.rows, others, strict=True)
        return [first[: (len(first) + 1) // 2] + other[len(other) // 2 :] for first, other in pairs]


def _require_finite(values: Floats) -> None:
    """Refuse NaN and infinity: finite weights can have products that are not finite."""
    if not np.isfinite(values).all():
        raise CheckpointError("the model answers NaN or infinity: its weights are too large to compute with")


def _short(value: float) -> float:
    """Rounded to six significant digits: the last bits differ between processors."""
    return float(f"{float(value):.6g}")
