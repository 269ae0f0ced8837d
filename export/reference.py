"""What the fp32 graph answers: golden prompts for the manifest, and text to measure other variants on.

Everything is deterministic, so that exporting a checkpoint twice writes the same manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer

from export.config import Head, ModelConfig
from export.errors import CheckpointError
from export.quality import head_card, language_card
from export.session import Floats, HeadSession, LanguageSession
from runtime.contract import Architecture, GoldenPrompt, Kind

GOLDEN_PROMPTS = 4
GOLDEN_PROMPT_TOKENS = 12
GOLDEN_ANSWER_TOKENS = 8
CALIBRATION_ROWS = 8
CALIBRATION_TOKENS = 64
# Plain sentences of many kinds; what the heads answer to them is compared, not whether it is right.
HEAD_TEXTS = (
    "What a wonderful little story this was!",
    "play the newest album by the band on my phone",
    "The service was slow and the food was cold.",
    "book a table for four people at seven tonight",
    "Will it rain in the mountains tomorrow morning?",
    "The plot makes no sense, but the actors are charming.",
    "add this song to my evening playlist",
    "Two dogs run across a field.",
    "find the schedule of the movie theatre nearby",
    "I would not recommend it to anyone.",
    "rate this book five out of six stars",
    "A man is sleeping on a bench in the park.",
)


def generate(
    session: LanguageSession, prompts: list[list[int]], count: int, seed: int | None
) -> list[list[int]]:
    """Continue each prompt by `count` tokens: greedily, or, with a seed, sampled at temperature 1."""
    random = np.random.default_rng(seed)
    lengths = np.array([len(prompt) for prompt in prompts], np.int64)
    logits = session.prefill(prompts)
    chosen: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    for step in range(count):
        if step:
            logits = session.decode(chosen[-1], lengths)
            lengths = lengths + 1
        _require_finite(logits)
        # Adding Gumbel noise and taking the maximum samples from the softmax.
        noise = random.gumbel(size=logits.shape) if seed is not None else 0.0
        chosen.append(np.argmax(logits + noise, axis=1))
    return [[int(token) for token in row] for row in np.stack(chosen, axis=1)]


def _require_finite(logits: Floats) -> None:
    """Each weight may be a number and their products none."""
    if not np.isfinite(logits).all():
        raise CheckpointError("the model answers NaN or infinity: its weights are too large to compute with")


class Reference(Protocol):
    """What the fp32 graph says about a checkpoint."""

    rows: list[list[int]]  # token ids of the calibration texts

    def golden(self) -> tuple[GoldenPrompt, ...]:
        """Inputs with their answers."""

    def card(self, graph: Path) -> dict[str, float]:
        """The quality card of another variant's graph."""


def open_reference(
    graph: Path, config: ModelConfig, architecture: Architecture, tokenizer: Tokenizer
) -> Reference:
    """The reference for the fp32 `graph` of any kind."""
    if config.head is Head.LM:
        return LanguageReference(graph, config, architecture, tokenizer)
    return HeadReference(graph, config, tokenizer)


class LanguageReference:
    """Text that the model writes itself, and its own greedy answers."""

    def __init__(
        self, graph: Path, config: ModelConfig, architecture: Architecture, tokenizer: Tokenizer
    ) -> None:
        self._eos = config.eos_token_id
        self._tokenizer = tokenizer
        self._context = min(config.context_length, CALIBRATION_TOKENS + 8)
        self._architecture = architecture
        self._session = self._open(graph)
        sampled = generate(self._session, [[self._eos]] * CALIBRATION_ROWS, self._context - 1, seed=0)
        self.rows = [[self._eos, *row] for row in sampled]

    def _open(self, graph: Path) -> LanguageSession:
        """A session with room for the calibration text."""
        return LanguageSession(graph, self._architecture, CALIBRATION_ROWS, self._context)

    def golden(self) -> tuple[GoldenPrompt, ...]:
        """Beginnings of the calibration rows as text, with the greedy tokens that follow."""
        prompts: dict[str, list[int]] = {}
        for row in self.rows:
            # Bytes that make no whole character would come back from the text as other tokens.
            text = self._tokenizer.decode(row[1 : 1 + GOLDEN_PROMPT_TOKENS]).replace("\ufffd", "")
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
            if 0 < len(ids) <= self._context - GOLDEN_ANSWER_TOKENS and len(prompts) < GOLDEN_PROMPTS:
                prompts[text] = ids
        if not prompts:
            return ()
        answers = generate(self._session, list(prompts.values()), GOLDEN_ANSWER_TOKENS, seed=None)
        return tuple(
            GoldenPrompt(text=text, token_ids=tuple(answer))
            for text, answer in zip(prompts, answers, strict=True)
        )

    def card(self, graph: Path) -> dict[str, float]:
        return language_card(self._compare(graph))

    def _compare(self, graph: Path) -> Iterator[tuple[Floats, Floats, list[int]]]:
        """Row by row, as all logits at once would be the largest thing in an export."""
        other = self._open(graph)
        for row in self.rows:
            expected = self._session.prefill([row[:-1]], every_row=True)
            yield expected, other.prefill([row[:-1]], every_row=True), row[1:]


class HeadReference:
    """Fixed sentences, tokenized as the engine does, and the fp32 logits."""

    def __init__(self, graph: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
        self._config = config
        tokenized = {text: head_token_ids(tokenizer, text, config) for text in HEAD_TEXTS}
        self._texts = [text for text, ids in tokenized.items() if ids]
        # A context too short for every sentence leaves one token to compare by.
        self.rows = [ids for ids in tokenized.values() if ids] or [[config.eos_token_id]]
        self._answers = HeadSession(graph).run(self.rows)
        for answer in self._answers:
            if answer is not None:
                _require_finite(answer)

    def golden(self) -> tuple[GoldenPrompt, ...]:
        """Empty for a model with slots alone, which has no label scores."""
        if self._config.head is Head.TOKEN:
            return ()
        return tuple(
            GoldenPrompt(text=text, scores=tuple(float(score) for score in scores))
            for text, scores in zip(self._texts[:GOLDEN_PROMPTS], self._answers[0], strict=False)
        )

    def card(self, graph: Path) -> dict[str, float]:
        found = HeadSession(graph).run(self.rows)
        return head_card(self._answers, found, [len(row) for row in self.rows], self._config.problem_type)


def head_token_ids(tokenizer: Tokenizer, text: str, config: ModelConfig) -> list[int]:
    """What a head model reads for a text, as the engine does; empty where the text does not fit.

    A classifier reads the tokenizer's template; an nlu model bare tokens, by `nlu_echo` twice around an eos.
    """
    ids: list[int] = tokenizer.encode(text, add_special_tokens=config.head.kind is Kind.CLASSIFIER).ids
    if config.nlu_echo and ids:
        ids = [*ids, config.eos_token_id, *ids]
    return ids if len(ids) <= config.context_length else []
