"""The texts on which variants are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from bench.checkpoints import SIZES
from export.checkpoint.config import read_config
from export.checkpoint.prompts import PromptReader
from export.errors import ExportError
from export.evaluation.reference import LEAST_ROWS, MAX_TOKENS, ROW_TOKENS, rows_that_are_quick
from export.evaluation.texts import (
    MAX_TOKEN_CHARACTERS,
    SENTENCES,
    head_texts,
    language_rows,
    read_calibration,
    readable_texts,
)
from export.pipeline import export_checkpoint
from export.verification import numpy_gpt2 as oracle
from runtime.contract import Kind, Variant
from runtime.manifest import GoldenPrompt, Manifest
from tests.export.checkpoints import tiny_config, tiny_tokenizer

STORY = "the little cat sat on the mat and the dog ran home to its friend. it rains a little today. " * 20


def test_the_card_is_that_of_the_users_text(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text(STORY, "utf-8")
    manifest = export_checkpoint(
        checkpoint("lm"),
        tmp_path / "out",
        name="x",
        variants=[Variant.FP32, Variant.INT8],
        calibration=tmp_path / "story.txt",
    )
    rows = language_rows(STORY, tiny_tokenizer(), MAX_TOKENS // ROW_TOKENS, ROW_TOKENS)
    weights, config = oracle.load(checkpoint("lm"))
    surprise = []
    for row in rows:
        logits = oracle.lm_logits(weights, config, row[:-1])
        logits -= logits.max(axis=1, keepdims=True)
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        surprise += [-logprobs[place, token] for place, token in enumerate(row[1:])]
    quality = manifest.variants[Variant.INT8].quality
    assert quality is not None
    assert quality["tokens"] == len(surprise)
    assert quality["perplexity"] == pytest.approx(np.exp(np.mean(surprise)), rel=1e-4)
    assert manifest.provenance["compared_on"] == "a calibration text"
    assert manifest.golden[0].text in STORY


def test_rows_are_spread_over_the_text() -> None:
    tokenizer = tiny_tokenizer()
    short = STORY[: 3 * 16 * MAX_TOKEN_CHARACTERS]  # of which all is read
    ids = tokenizer.encode(short, add_special_tokens=False).ids
    rows = language_rows(short, tokenizer, 3, 16)
    assert len(rows) == 3
    assert rows[0] == ids[:16]
    places = [next(i for i in range(len(ids)) if ids[i : i + 16] == row and i % 16 == 0) for row in rows]
    assert places == sorted(places)
    assert places[-1] > len(ids) // 2
    long = language_rows(STORY * 50, tokenizer, 3, 16)
    assert [len(row) for row in long] == [16, 16, 16]
    assert long[0] == ids[:16]
    assert tokenizer.decode(long[-1]) in STORY
    assert language_rows("the cat sat", tokenizer, 3, 16) == [tokenizer.encode("the cat sat").ids]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "calibration: text.txt: not UTF-8 at byte 0"),
        (b" \n", "calibration: text.txt: holds no text"),
        (None, "calibration: text.txt: No such file"),
    ],
)
def test_a_calibration_file_that_cannot_be_read(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(ExportError, match=message) as caught:
        read_calibration(tmp_path / "text.txt")
    assert caught.value.field == "calibration"


def test_a_text_of_one_token_compares_nothing() -> None:
    with pytest.raises(ExportError, match="a single token"):
        language_rows("a", tiny_tokenizer(), 3, 16)


def test_a_head_reads_one_text_a_line_or_a_pair() -> None:
    lines = "first\n\nsecond\tits pair\n  \nthird\t\n"
    pair = GoldenPrompt("second", "its pair")
    first, third = GoldenPrompt("first"), GoldenPrompt("third")
    assert head_texts(lines, Kind.CLASSIFIER) == [first, pair, third]
    assert head_texts(lines, Kind.NLU) == [first, GoldenPrompt("second"), third]


@pytest.mark.parametrize(("kind", "pairs"), [(Kind.CLASSIFIER, 132), (Kind.NLU, 0)])
def test_heads_have_texts_of_their_own(kind: Kind, pairs: int) -> None:
    texts = head_texts(None, kind)
    assert [text.text for text in texts[: len(SENTENCES)]] == list(SENTENCES)
    assert len(set(texts)) == len(texts)
    assert len([text for text in texts if text.text_pair]) == pairs
    assert len(texts) == 12 + 2 * 132 + pairs


def test_the_golden_prompts_of_a_pair_reader_are_kept_as_pairs(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "pairs.tsv").write_text("the cat sat\tthe dog ran\nit rains\ttoday\n", "utf-8")
    export_checkpoint(
        checkpoint("classifier"),
        tmp_path / "out",
        name="x",
        variants=[Variant.INT8],
        calibration=tmp_path / "pairs.tsv",
    )
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.golden == (GoldenPrompt("the cat sat", "the dog ran"), GoldenPrompt("it rains", "today"))
    weights, config = oracle.load(checkpoint("classifier"))
    ids = tiny_tokenizer().encode("it rains", "today").ids
    expected = oracle.classifier_logits(weights, config, ids)
    found = np.array(manifest.variants[Variant.INT8].golden[1].scores)
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max() + 0.01


def head_reader(folder: Path, context: int, tokenizer: Tokenizer | None = None) -> PromptReader:
    """Of a classifier whose context has this number of tokens."""
    config = replace(read_config(folder), context_length=context)
    return PromptReader.of(tokenizer or tiny_tokenizer(), config)


@pytest.mark.parametrize(("context", "first"), [(96, SENTENCES[0]), (9, "What"), (2, "a")])
def test_own_texts_are_cut_to_the_context(
    context: int, first: str, checkpoint: Callable[[str], Path]
) -> None:
    """Sentences, else their words, and the golden prompts are the first."""
    texts = readable_texts(head_reader(checkpoint("classifier"), context), None)
    assert texts[0][0] == GoldenPrompt(first)
    assert all(0 < len(ids) <= context for _, ids in texts)
    assert len(texts) > 10


def test_an_alphabet_that_spells_no_word_is_read_by_its_tokens(checkpoint: Callable[[str], Path]) -> None:
    digits = Tokenizer(models.BPE(vocab={str(digit): digit for digit in range(10)}, merges=[]))
    texts = readable_texts(head_reader(checkpoint("classifier"), 96, digits), None)
    assert [text.text for text, _ in texts] == [str(digit) for digit in range(10)]
    assert [ids for _, ids in texts] == [[digit] for digit in range(10)]


def test_a_calibration_text_of_which_nothing_fits_is_refused(checkpoint: Callable[[str], Path]) -> None:
    reader = head_reader(checkpoint("classifier"), 4)
    assert [text.text for text, _ in readable_texts(reader, "a cat with a hat\nthe\n")] == ["the"]
    with pytest.raises(ExportError, match="no line of it fits the model's context of 4 tokens") as caught:
        readable_texts(reader, "a cat with a hat\n")
    assert caught.value.field == "calibration"


def test_large_models_are_compared_on_less(tmp_path: Path) -> None:
    counts = []
    for layers, width in ((2, 64), (size_of("gpt2")), (size_of("gpt2-xl"))):
        config = tiny_config(n_layer=layers, n_embd=width, vocab_size=50257, n_positions=1024, n_head=1)
        config.architectures = ["GPT2LMHeadModel"]
        config.save_pretrained(tmp_path)
        counts.append(rows_that_are_quick(read_config(tmp_path), ROW_TOKENS))
    assert counts[0] > counts[1] >= counts[2] == LEAST_ROWS


def size_of(name: str) -> tuple[int, int]:
    return SIZES[name].layers, SIZES[name].hidden
