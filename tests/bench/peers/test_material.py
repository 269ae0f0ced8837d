"""Prompts: exact in length, the same as ids and as text, never twice the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers

from bench.checkpoints import TOKENIZER_OF, write_checkpoint
from bench.peers.material import PromptSource, as_texts
from runtime.contract import TOKENIZER_FILE
from runtime.text import Tokenizer

VOCABULARY = 9000


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "checkpoint"
    write_checkpoint("gpt2", folder, n_layer=1, n_head=1, n_embd=8, vocab_size=VOCABULARY)
    return folder / TOKENIZER_FILE


def test_every_id_has_a_text(tokenizer: Path) -> None:
    engine = Tokenizer(tokenizer, 0)
    silent = [token for token in range(VOCABULARY) if not engine.token_bytes(token)]
    assert silent == [0]  # the end of text


def test_added_words_change_no_reading(tokenizer: Path) -> None:
    text = " unused8500 and what else there is"
    before = tokenizers.Tokenizer.from_file(str(TOKENIZER_OF / TOKENIZER_FILE)).encode(text).ids
    assert tokenizers.Tokenizer.from_file(str(tokenizer)).encode(text).ids == before


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 32), (2, 512)])
def test_prompts_read_back(tokenizer: Path, batch: int, length: int) -> None:
    prompts = PromptSource(tokenizer).take(batch, length)
    assert [len(prompt) for prompt in prompts] == [length] * batch
    engine = Tokenizer(tokenizer, 0)
    assert [engine.encode(text) for text in as_texts(tokenizer, prompts)] == prompts


def test_prompts_differ_and_come_again_with_the_seed(tokenizer: Path) -> None:
    source = PromptSource(tokenizer)
    prompts = source.take(4, 32) + source.take(4, 32)
    assert len({tuple(prompt) for prompt in prompts}) == 8
    assert PromptSource(tokenizer).take(4, 32) == prompts[:4]
