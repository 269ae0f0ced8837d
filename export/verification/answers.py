"""Answers of the fp32 graph to random tokens; other models then answer the same.

Texts are token ids from a fixed seed: an error in any part of a model changes its answers to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from export.checkpoint.config import Head, ModelConfig
from export.progress import OnProgress
from export.session import Floats, HeadSession, Integers, LanguageSession
from runtime.contract import Variant, without_padding
from runtime.manifest import Architecture

MAX_PROMPT_TOKENS = 32
MAX_TEXT_TOKENS = 96
GENERATED_AT_ONCE = 25  # rows


@dataclass(frozen=True, slots=True)
class Answer:
    """`logits` of a language model are one array `[steps, vocab]`, by which it chose its tokens.

    Those of a head are `[labels]`, `[tokens, slot_labels]` or both.
    """

    ids: list[
        int
    ]  # the tokens that were read: for a language model the prompt and its own tokens but the last
    logits: list[Floats]


def language_answers(
    graph: Path,
    architecture: Architecture,
    prompts: int,
    tokens: int,
    scratch: IO[bytes],
    on_progress: OnProgress,
) -> list[Answer]:
    """Greedy continuations by `tokens` tokens, or fewer in a short context.

    The logits can be large, and are kept in the file `scratch`, which must be empty.
    """
    context, vocabulary = architecture.context_length, architecture.vocab_size
    steps = min(tokens, context - 1)
    texts = _texts(np.arange(vocabulary), prompts, min(MAX_PROMPT_TOKENS, context - steps))
    room = max(map(len, texts)) + steps
    session = LanguageSession(graph, Variant.FP32, architecture, GENERATED_AT_ONCE, room, lean=False)
    logits = np.memmap(scratch, np.float32, "w+", shape=(prompts, steps, vocabulary))
    chosen = np.zeros((prompts, steps), np.int64)
    for start in range(0, prompts, GENERATED_AT_ONCE):
        part = slice(start, start + GENERATED_AT_ONCE)
        lengths = np.array([len(text) for text in texts[part]], np.int64)
        for step in range(steps):
            if step == 0:
                found = session.prefill(texts[part])
            else:
                found = session.decode(chosen[part, step - 1], lengths + step - 1)
            logits[part, step] = found
            chosen[part, step] = found.argmax(axis=1)
        on_progress(min(1.0, part.stop / prompts))
    return [
        Answer([*text, *map(int, row[:-1])], [scores])
        for text, row, scores in zip(texts, chosen, logits, strict=True)
    ]


def head_answers(graph: Path, config: ModelConfig, count: int, on_progress: OnProgress) -> list[Answer]:
    """Answers to `count` texts in batches; a classifier's texts end with up to three tokens of padding."""
    texts = _texts(np.arange(config.vocab_size), count, min(MAX_TEXT_TOKENS, config.context_length))
    rows = texts
    if config.head is Head.SEQUENCE and config.pad_token_id is not None:
        # The answer is read before the padding at the end of a text.
        for number, text in enumerate(texts):
            padding = min(number % 4, len(text))
            text[len(text) - padding :] = [config.pad_token_id] * padding
        rows = [without_padding(text, config.pad_token_id) for text in texts]
    answers: list[Answer] = []
    for text, (labels, slots) in zip(texts, HeadSession(graph, Variant.FP32).run(rows), strict=True):
        logits = [labels] if config.labels else []
        answers.append(Answer(text, logits if slots is None else [*logits, slots]))
        on_progress(len(answers) / count)
    return answers


def _texts(tokens: Integers, count: int, longest: int) -> list[list[int]]:
    """Rows of these tokens, of every length from 1 to `longest`."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, longest, count, endpoint=True)
    return [[int(token) for token in random.choice(tokens, length)] for length in lengths]
