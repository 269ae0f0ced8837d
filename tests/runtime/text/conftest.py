"""A small byte-level tokenizer whose tokens often cut characters."""

from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from runtime.text import Tokenizer

END_OF_TEXT = "<|endoftext|>"
TEXT = "the cat sat on the mat. \n\nUser: 你好世界 ☃️ 🌍🌎 naïve café\r\nstop stop!안녕하세요 "


def train_tokenizer(vocab_size: int = 320) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def library_tokenizer() -> tokenizers.Tokenizer:
    return train_tokenizer()


@pytest.fixture(scope="session")
def tokenizer(library_tokenizer: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    library_tokenizer.save(str(path))
    return Tokenizer(path, eos_token_id=0)
