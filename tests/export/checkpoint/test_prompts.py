"""What the exporter takes a model to read is what the engine reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, processors

from export.checkpoint.config import read_config
from export.checkpoint.prompts import PromptReader
from runtime.heads import HeadInput
from runtime.heads.reader import Reader, Row
from runtime.manifest import GoldenPrompt, Manifest
from runtime.text import open_tokenizer
from tests.export.checkpoints import tiny_tokenizer

TEXTS = ["the little cat", "<|endoftext|>", "", "q" * 47, "q" * 48, "q" * 95, "q" * 96, "q" * 97]


def reader(folder: Path, tokenizer: Tokenizer | None = None, **changes: Any) -> PromptReader:
    return PromptReader.of(tokenizer or tiny_tokenizer(), replace(read_config(folder), **changes))


@pytest.mark.parametrize("kind", ["classifier", "tagger", "nlu"])
def test_heads_read_as_in_the_engine(kind: str, artifact: Callable[[str], Path]) -> None:
    manifest = Manifest.load(artifact(kind))
    tokenizer = open_tokenizer(artifact(kind) / "tokenizer.json")
    ours = PromptReader.of(tokenizer, manifest)
    texts = [(text, pair) for text in TEXTS for pair in (None, "a cat") if kind == "classifier" or not pair]
    for text, pair in texts:
        (row,) = Reader(manifest, tokenizer).read([HeadInput(text, pair)])
        assert ours.token_ids(GoldenPrompt(text, pair)) == (row.ids if isinstance(row, Row) else [])


def test_a_language_model_leaves_room_for_an_answer(checkpoint: Callable[[str], Path]) -> None:
    language = reader(checkpoint("lm"))
    assert len(language.token_ids(GoldenPrompt("q" * 95))) == 95
    assert language.token_ids(GoldenPrompt("q" * 96)) == []
    assert language.token_ids(GoldenPrompt("")) == []


def test_a_classifier_reads_to_the_last_token_that_is_not_padding(checkpoint: Callable[[str], Path]) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", pair=None, special_tokens=[("<|endoftext|>", 0)]
    )
    ids = tokenizer.encode("the cat").ids
    prompt = GoldenPrompt("the cat")
    assert ids[-1] == 0
    assert reader(checkpoint("classifier"), tokenizer, pad_token_id=0).token_ids(prompt) == ids[:-1]
    assert reader(checkpoint("classifier"), tokenizer, pad_token_id=None).token_ids(prompt) == ids


def test_the_shortest_texts_are_ones_that_it_reads(checkpoint: Callable[[str], Path]) -> None:
    for kind in ("lm", "classifier", "nlu"):
        short = reader(checkpoint(kind), context_length=3)
        texts = list(short.shortest())
        assert len(texts) > 90
        assert all(short.token_ids(text) for text in texts)
        assert "\ufffd" not in "".join(text.text for text in texts)


def test_a_vocabulary_of_one_letter(checkpoint: Callable[[str], Path]) -> None:
    one = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    assert list(reader(checkpoint("lm"), one).shortest()) == [GoldenPrompt("a")]
    assert list(reader(checkpoint("lm"), one, context_length=1).shortest()) == []
