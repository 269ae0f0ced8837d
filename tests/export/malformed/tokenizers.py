"""Checkpoints whose tokenizer must not pass, each with a part of its message."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.export.checkpoints import tiny_tokenizer
from tests.export.edits import Edit, change_config, change_tensors, remove, write
from tests.export.malformed.inputs import in_place_of

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def tokenizer(**changes: Any) -> Edit:
    return write("tokenizer.json", json.dumps(json.loads(tiny_tokenizer().to_str()) | changes).encode())


def bpe(**changes: Any) -> Edit:
    model = json.loads(tiny_tokenizer().to_str())["model"]
    return tokenizer(model=model | changes)


def pair(vocabulary: dict[str, Any], merges: str) -> Edit:
    """OpenAI's two files in place of tokenizer.json."""

    def edit(folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
        (folder / "merges.txt").write_text(merges, "utf-8")

    return edit


def template(token: int) -> dict[str, Any]:
    whole: list[dict[str, Any]] = [{"SpecialToken": {"id": "X", "type_id": 0}}]
    named = {"X": {"id": "X", "ids": [token], "tokens": ["X"]}}
    return {"type": "TemplateProcessing", "single": whole, "pair": whole, "special_tokens": named}


def replace_in_turn(times: int) -> dict[str, Any]:
    """Each makes a thousand of every `e`."""
    one = {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 1000}
    return {"type": "Sequence", "normalizers": [one] * times}


TOKENIZERS: dict[str, tuple[Edit, str]] = {
    "tokenizer missing": (
        remove("tokenizer.json"),
        "tokenizer.json: missing, and no vocab.json + merges.txt",
    ),
    "tokenizer not JSON": (write("tokenizer.json", b"no"), "tokenizer.json: not JSON: Expecting value"),
    "tokenizer of nothing": (
        write("tokenizer.json", b"{}"),
        "tokenizer.json: decoder: none, but only",
    ),
    "tokenizer without a model": (
        write("tokenizer.json", json.dumps({"decoder": BYTE_LEVEL}).encode()),
        "tokenizer.json: Model missing",
    ),
    "tokenizer a config": (
        tokenizer(model={"type": "GPT2"}),
        "tokenizer.json: data did not match any variant",
    ),
    "merges shorter than the prefix": (
        tokenizer(
            model={
                "type": "BPE",
                "vocab": {"a": 0, "b": 1},
                "merges": [["a", "b"]],
                "continuing_subword_prefix": "##########",
            }
        ),
        "tokenizer.json: model.continuing_subword_prefix: '##########', but tokens of bytes have none",
    ),
    "tokenizer a pipe": (in_place_of("tokenizer.json", os.mkfifo), "tokenizer.json: a pipe, but"),
    "tokenizer empty": (
        tokenizer(model={"type": "BPE", "vocab": {}, "merges": []}, added_tokens=[]),
        "tokenizer.json: the vocabulary is empty",
    ),
    "ids beyond the vocabulary": (
        lambda folder: (
            change_config(vocab_size=200)(folder),
            change_tensors(
                lambda tensors: tensors.update(
                    {"transformer.wte.weight": tensors["transformer.wte.weight"][:200].clone()}
                )
            )(folder),
        )[1],
        "has id 289, beyond vocab_size 200",
    ),
    "id of a template": (
        tokenizer(post_processor=template(300)),
        "post_processor: adds id 300, beyond vocab_size 300",
    ),
    "id beyond 32 bits": (bpe(vocab={"a": 1 << 32}, merges=[]), "integer `4294967296`, expected u32"),
    "merges of no tokens": (bpe(merges=[["zz", "qq"]]), "tokenizer.json: Token `zz` out of vocabulary"),
    "text that multiplies": (tokenizer(normalizer=replace_in_turn(3)), "normalizer: 'Replace' is not one of"),
    "table that is trusted": (
        tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "/" * 35 + "8="}),
        "normalizer: 'Precompiled' is not one of",
    ),
    "pattern without end": (
        tokenizer(
            pre_tokenizer={
                "type": "Split",
                "pattern": {"Regex": "(a+)+$"},
                "behavior": "Isolated",
                "invert": False,
            }
        ),
        "pre_tokenizer: the pattern '(a+)+$' is not one that is known",
    ),
    "words without unknown": (
        tokenizer(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}),
        "tokenizer.json: does not read any text: WordLevel error: Missing [UNK]",
    ),
    "tokens by chance": (bpe(dropout=0.5), "model.dropout: a text would be other tokens each time"),
    "many added tokens": (
        tokenizer(added_tokens=[{}] * 10_001),
        "added_tokens: 10001, but at most 10000 are read",
    ),
    "merges of three": (
        pair({"a": 0}, "#version: 0.2\na b c\n"),
        "merges.txt: line 2: two tokens are needed",
    ),
    "merges unknown": (pair({"a": 0}, "x y\n"), "merges.txt: Error while initializing BPE: Token `x`"),
    "vocabulary of words": (pair({"a": "b"}, ""), "vocab.json: an object from tokens to ids is needed"),
    "vocabulary with an id twice": (pair({"a": 1, "b": 1}, ""), "vocab.json: two tokens have one id"),
}
