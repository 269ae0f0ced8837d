"""What an fp32 graph answers to random tokens, for other models to be asked the same.

Texts are token ids from a fixed seed: every part of a model shows in its answer to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from export.checkpoint.config import ModelConfig
from export.session import Floats, HeadSession, Integers, LanguageSession
from runtime.contract import Architecture, Variant

MAX_PROMPT_TOKENS = 32
MAX_TEXT_TOKENS = 96
GENERATED_AT_ONCE = 25  # rows

Tell = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """A language model's `logits` are one array `[steps, vocab]`, those that it chose its tokens by.

    A head's are `[labels]`, `[tokens, slot_labels]` or both.
    """

    ids: list[int]  # what was read: of a language model the prompt, and all but the last of its own tokens
    logits: list[Floats]


def language_answers(
    graph: Path, architecture: Architecture, prompts: int, tokens: int, scratch: IO[bytes], tell: Tell
) -> list[Answer]:
    """Greedy continuations by `tokens` tokens, or fewer in a short context.

    The logits, which are large for a large vocabulary, lie in the empty file `scratch`.
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
        tell(min(1.0, part.stop / prompts))
    return [
        Answer([*text, *map(int, row[:-1])], [scores])
        for text, row, scores in zip(texts, chosen, logits, strict=True)
    ]


def head_answers(graph: Path, config: ModelConfig, count: int, tell: Tell) -> list[Answer]:
    """Labels of `count` texts, padded in batches."""
    # transformers reads a classifier's answer at the last token that is no padding.
    allowed = np.delete(np.arange(config.vocab_size), config.pad_token_id)
    texts = _texts(allowed, count, min(MAX_TEXT_TOKENS, config.context_length))
    answers: list[Answer] = []
    for text, (labels, slots) in zip(texts, HeadSession(graph, Variant.FP32).run(texts), strict=True):
        logits = [labels] if config.labels else []
        answers.append(Answer(text, logits if slots is None else [*logits, slots]))
        tell(len(answers) / count)
    return answers


def _texts(tokens: Integers, count: int, longest: int) -> list[list[int]]:
    """Rows of these tokens, of every length from 1 to `longest`."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, longest, count, endpoint=True)
    return [[int(token) for token in random.choice(tokens, length)] for length in lengths]
