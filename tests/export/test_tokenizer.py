"""Tokenizers in every form in which GPT-2s come."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import GPT2TokenizerFast

from export.config import read_config
from export.errors import CheckpointError
from export.tokenizer import read_tokenizer
from tests.export.checkpoints import tiny_tokenizer

TEXTS = ["the little cat sat", "  two  spaces, naïve café \n\t", "日本語 🙂", "<|endoftext|>the mat", ""]


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    target = Path(shutil.copytree(checkpoint("lm"), tmp_path / "checkpoint"))
    (target / "tokenizer.json").unlink()
    return target


def write_pair(folder: Path, vocabulary: str, merges: str) -> None:
    model = json.loads(tiny_tokenizer().to_str())["model"]
    (folder / vocabulary).write_text(json.dumps(model["vocab"]), "utf-8")
    lines = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / merges).write_text(f"#version: 0.2\n{lines}\n", "utf-8")


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_two_files_become_one(names: tuple[str, str], folder: Path) -> None:
    write_pair(folder, *names)
    converted = read_tokenizer(folder, read_config(folder))
    write_pair(folder, "vocab.json", "merges.txt")
    reference = GPT2TokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    for text in TEXTS:
        ids = converted.encode(text).ids
        assert ids == reference(text)["input_ids"]
        assert converted.decode(ids, skip_special_tokens=False) == text


def test_stored_truncation_and_padding_are_dropped(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(folder / "tokenizer.json"))
    found = read_tokenizer(folder, read_config(folder)).encode("the little cat sat on the mat").ids
    assert found == tiny_tokenizer().encode("the little cat sat on the mat").ids


@pytest.mark.parametrize(
    ("merges", "message"),
    [("#version: 0.2\na b c\n", "line 2"), ("zz qq\n", "merges.txt"), ("\udcff", "merges.txt")],
)
def test_bad_merges(merges: str, message: str, folder: Path) -> None:
    write_pair(folder, "vocab.json", "merges.txt")
    (folder / "merges.txt").write_bytes(merges.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_tokenizer(folder, read_config(folder))
    assert caught.value.field == "merges.txt"


@pytest.mark.parametrize("vocabulary", ["[]", "{}", '{"a": "b"}', '{"a": -1}', "{"])
def test_bad_vocabulary(vocabulary: str, folder: Path) -> None:
    write_pair(folder, "vocab.json", "merges.txt")
    (folder / "vocab.json").write_text(vocabulary, "utf-8")
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(folder, read_config(folder))
    assert caught.value.field == "vocab.json"
