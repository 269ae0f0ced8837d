"""The texts on which variants are compared: the user's, or else the exporter's.

A language model writes its own texts (`reference`). For heads there are plain sentences of many kinds, and
mixtures of them; the answers of heads are compared with each other, not with correct answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer

from export.checkpoint.prompts import PromptReader
from export.errors import ExportError
from runtime.contract import Kind
from runtime.manifest import GoldenPrompt

MAX_CALIBRATION_BYTES = 64 << 20
MAX_HEAD_TEXTS = 512
MOST_SHORT_TEXTS = 64  # texts of a single token
MAX_TOKEN_CHARACTERS = 16  # assumed when a window of text is cut; few tokens are longer
SENTENCES = (
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


def read_calibration(path: Path) -> str:
    """The calibration file as text; raises ExportError (field `calibration`)."""
    try:
        size = path.stat().st_size
        if size > MAX_CALIBRATION_BYTES:
            raise _refused(f"{path.name} has {size} bytes, but at most {MAX_CALIBRATION_BYTES} are read")
        text = path.read_text("utf-8")
    except OSError as error:
        raise _refused(f"{path.name}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise _refused(f"{path.name}: not UTF-8 at byte {error.start}") from None
    if not text.strip():
        raise _refused(f"{path.name}: holds no text")
    return text


def language_rows(text: str, tokenizer: Tokenizer, rows: int, length: int) -> list[list[int]]:
    """Token ids of the text in up to `rows` windows of `length` tokens, spread over all of it."""
    # An encoded text takes over a hundred times its bytes: only the windows of a long text are encoded.
    width = MAX_TOKEN_CHARACTERS * length
    if len(text) > rows * width:
        step = (len(text) - width) / max(1, rows - 1)
        pieces = [text[int(row * step) : int(row * step) + width] for row in range(rows)]
        windows = [_encode(tokenizer, piece)[:length] for piece in pieces]
    else:
        ids = _encode(tokenizer, text)
        starts = range(0, max(1, len(ids) - length + 1), length)
        chosen = [starts[index * len(starts) // rows] for index in range(min(rows, len(starts)))]
        windows = [ids[start : start + length] for start in chosen]
    windows = [window for window in windows if len(window) > 1]
    if not windows:
        raise _refused("the text is a single token of this model, and two are needed to compare anything")
    return windows


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def head_texts(calibration: str | None, kind: Kind) -> list[GoldenPrompt]:
    """One text per line, or two separated by a tab; without calibration text, the exporter's sentences."""
    if calibration is None:
        return _own_texts(kind)
    texts: list[GoldenPrompt] = []
    for line in calibration.splitlines():
        text, _, pair = line.partition("\t")
        if text.strip() and len(texts) < MAX_HEAD_TEXTS:
            texts.append(GoldenPrompt(text, pair or None if kind is Kind.CLASSIFIER else None))
    return texts


def _own_texts(kind: Kind) -> list[GoldenPrompt]:
    """The sentences first, because the first texts are golden prompts; then mixed halves of each two."""
    pairs = list(itertools.permutations(SENTENCES, 2))
    texts = [GoldenPrompt(sentence) for sentence in SENTENCES]
    for place in (0, 1):
        texts += [
            GoldenPrompt(f"{_half(first, place)} {_half(second, 1 - place)}") for first, second in pairs
        ]
    if kind is Kind.CLASSIFIER:
        texts += [GoldenPrompt(first, second) for first, second in pairs]
    return texts


def _half(sentence: str, part: int) -> str:
    words = sentence.split()
    middle = len(words) // 2
    return " ".join(words[middle:] if part else words[:middle])


def readable_texts(reader: PromptReader, calibration: str | None) -> list[tuple[GoldenPrompt, list[int]]]:
    """The texts for heads that fit the model, at least one, with the token ids of each.

    If the context is too short for the exporter's sentences, their words are taken, or single tokens. Raises
    ExportError (field `calibration`) if no line of the user's text fits.
    """
    found = _readable(reader, head_texts(calibration, reader.kind))
    if not found and calibration is not None:
        raise _refused(
            f"no line of it fits the model's context of {reader.architecture.context_length} tokens"
        )
    if not found:
        words = dict.fromkeys(word for sentence in SENTENCES for word in sentence.split())
        found = _readable(reader, map(GoldenPrompt, words))
    return found or _readable(reader, itertools.islice(reader.shortest(), MOST_SHORT_TEXTS))


def _readable(reader: PromptReader, texts: Iterable[GoldenPrompt]) -> list[tuple[GoldenPrompt, list[int]]]:
    return [(text, ids) for text in texts if (ids := reader.token_ids(text))]


def _refused(message: str) -> ExportError:
    return ExportError(f"calibration: {message}", field="calibration")
