"""Tokenizers in every form in which GPT-2s come."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, pre_tokenizers
from transformers import GPT2TokenizerFast

from export.checkpoint.config import read_config
from export.checkpoint.tokenizer import PATTERNS, read_tokenizer
from export.errors import CheckpointError
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
    converted, _ = read_tokenizer(folder, read_config(folder))
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
    found = read_tokenizer(folder, read_config(folder))[0].encode("the little cat sat on the mat").ids
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


def replace(content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": "e"}, "content": content}


def template(*ids: int) -> dict[str, Any]:
    token = {"id": "X", "ids": list(ids), "tokens": ["X"] * len(ids)}
    whole: list[dict[str, Any]] = [
        {"SpecialToken": {"id": "X", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    return {"type": "TemplateProcessing", "single": whole, "pair": whole[1:], "special_tokens": {"X": token}}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def sequence(name: str, *members: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", name: list(members)}


PARTS: dict[str, tuple[dict[str, Any], str]] = {
    "text that multiplies": (
        {"normalizer": sequence("normalizers", *[replace("e" * 1000)] * 3)},
        "normalizer: 'Replace' is not one of",
    ),
    "table that is trusted": (
        {
            "normalizer": {
                "type": "Precompiled",
                "precompiled_charsmap": "//////////////////////////////////8=",
            }
        },
        "normalizer: 'Precompiled' is not one of",
    ),
    "part without a type": ({"pre_tokenizer": {"pattern": " "}}, "pre_tokenizer: 'None' is not one of"),
    "pattern without end": ({"pre_tokenizer": split("(a+)+$")}, "the pattern '(a+)+$' is not one that"),
    "template with another id": ({"post_processor": template(300)}, "post_processor: adds id 300, beyond"),
    "words without unknown": (
        {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}},
        "does not read any text: WordLevel error: Missing [UNK]",
    ),
    "tokens by chance": (
        {"model": {"type": "BPE", "dropout": 0.5, "vocab": {"a": 0}, "merges": []}},
        "model.dropout",
    ),
    "added tokens": ({"added_tokens": [{}] * 10_001}, "added_tokens: 10001, but at most 10000"),
    "decoder that cannot be served": (
        {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}},
        "decoder: 'WordPiece', but only GPT-2's byte-level BPE is served as a language model's",
    ),
    "decoders in a row": (
        {"decoder": sequence("decoders", {"type": "ByteFallback"}, {"type": "Fuse"})},
        "decoder: a Sequence of 'ByteFallback', 'Fuse', but only GPT-2's",
    ),
    "no decoder": ({"decoder": None}, "decoder: none, but only GPT-2's"),
    "no text": (
        {"model": {"type": "BPE", "vocab": {"<|endoftext|>": 0}, "merges": []}},
        "no text becomes a token that fits the context: 96 tokens",
    ),
    "id beyond all": (
        {"model": {"type": "BPE", "vocab": {"a": 1 << 32}, "merges": []}},
        "expected u32",
    ),
}


@pytest.mark.parametrize(("changes", "message"), PARTS.values(), ids=PARTS.keys())
def test_refuses_parts(changes: dict[str, Any], message: str, folder: Path) -> None:
    description = json.loads(tiny_tokenizer().to_str()) | changes
    (folder / "tokenizer.json").write_text(json.dumps(description), "utf-8")
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(folder, read_config(folder))
    assert message in caught.value.message


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": sequence("normalizers", {"type": "NFC"}, {"type": "Lowercase"})},
        {
            "pre_tokenizer": {
                "type": "Metaspace",
                "replacement": "_",
                "prepend_scheme": "always",
                "split": True,
            }
        },
        {"post_processor": template(0)},
        {"normalizer": None, "pre_tokenizer": None, "post_processor": None},
    ],
)
def test_reads_parts(changes: dict[str, Any], folder: Path) -> None:
    description = json.loads(tiny_tokenizer().to_str()) | changes
    (folder / "tokenizer.json").write_text(json.dumps(description), "utf-8")
    read_tokenizer(folder, read_config(folder))


def test_a_head_needs_no_decoder(checkpoint: Callable[[str], Path], folder: Path) -> None:
    """It makes no text."""
    for decoder in (None, {"type": "WordPiece", "prefix": "##", "cleanup": True}):
        description = json.loads(tiny_tokenizer().to_str()) | {"decoder": decoder}
        (folder / "tokenizer.json").write_text(json.dumps(description), "utf-8")
        read_tokenizer(folder, read_config(checkpoint("classifier")))


def test_a_special_token_in_a_text_is_read(folder: Path) -> None:
    """As in the engine: a golden prompt must be the same tokens here and there."""
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    assert 0 in read_tokenizer(folder, read_config(folder))[0].encode("a <|endoftext|> b").ids


@pytest.mark.parametrize("regex", PATTERNS)
def test_known_patterns_end(regex: str, folder: Path) -> None:
    """The library gives up on a pattern that tries too many ways, and ends the process with it."""
    tokenizer = tiny_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    for text in ("a" * 20_000, " " * 20_000, "\n" * 20_000, "1" * 20_000, "a1 \n'" * 5_000):
        assert len(tokenizer.encode(text).ids) > 0


@pytest.mark.parametrize(
    "vocabulary", ["[]", "{}", '{"a": "b"}', '{"a": -1}', "{", '{"a": 4294967296}', '{"a": 1, "b": 1}']
)
def test_bad_vocabulary(vocabulary: str, folder: Path) -> None:
    write_pair(folder, "vocab.json", "merges.txt")
    (folder / "vocab.json").write_text(vocabulary, "utf-8")
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(folder, read_config(folder))
    assert caught.value.field == "vocab.json"
