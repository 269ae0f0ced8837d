"""The files beside a tokenizer: the ids are those of transformers' AutoTokenizer, or a file is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GPT2TokenizerFast

from export.checkpoint.config import read_config
from export.checkpoint.folder import Checkpoint
from export.checkpoint.tokenizer import read_tokenizer
from export.errors import CheckpointError
from tests.export.checkpoint.test_tokenizer import write_pair
from tests.export.checkpoints import tiny_tokenizer
from tests.export.edits import change_config

TEXTS = [
    "the little cat<|sep|>sat", "a <|sep|> b", "x <mask>y", " the mat", "the", "<|endoftext|>a<|pad|>[EOS]",
    "<new> cat<new>dog",
]  # fmt: skip
Files = dict[str, Any]
SEP = {
    "content": "<|sep|>",
    "lstrip": False,
    "normalized": False,
    "rstrip": False,
    "single_word": False,
    "special": True,
}
CASES: dict[str, Files] = {
    "nothing": {},
    "added_tokens": {"added_tokens.json": {"<|sep|>": 291, "<new>": 290}},
    "added and special": {
        "added_tokens.json": {"<new>": 290, "<|sep|>": 291},
        "special_tokens_map.json": {"sep_token": "<|sep|>", "eos_token": "<|endoftext|>"},
    },
    "special alone": {
        "special_tokens_map.json": {
            "pad_token": "<|pad|>",
            "additional_special_tokens": ["<|sep|>", {**SEP, "content": "<mask>", "lstrip": True}],
        }
    },
    "another end of text": {"special_tokens_map.json": {"eos_token": "[EOS]", "bos_token": None}},
    "tokenizer_config": {
        "tokenizer_config.json": {"pad_token": "<|pad|>", "eos_token": "[EOS]", "add_prefix_space": True}
    },
    "both": {
        "tokenizer_config.json": {"pad_token": "<|pad|>", "additional_special_tokens": ["<new>"]},
        "special_tokens_map.json": {"pad_token": "<|sep|>"},
    },
    "added_tokens_decoder": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                "0": {**SEP, "content": "<|endoftext|>"},
                "291": {**SEP, "content": "<mask>", "lstrip": True},
                "290": SEP,
            },
            "mask_token": "<mask>",
            "tokenizer_class": "GPT2Tokenizer",
        },
        "special_tokens_map.json": {"pad_token": "<|ignored|>"},
    },
    "plain class": {
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "sep_token": "<|sep|>"}
    },
}


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("lm"), tmp_path / "checkpoint"))


def write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), "utf-8")


def assert_as_in_transformers(folder: Path) -> None:
    found, _ = read_tokenizer(folder, read_config(folder))
    reference = AutoTokenizer.from_pretrained(folder)
    assert found.get_vocab() == reference.get_vocab()
    for text in TEXTS:
        assert found.encode(text).ids == reference(text)["input_ids"], text


@pytest.mark.parametrize("form", ["tokenizer.json", "two files"])
@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_of_transformers(name: str, form: str, folder: Path) -> None:
    if form == "two files" and name != "plain class":  # which reads tokenizer.json alone
        (folder / "tokenizer.json").unlink()
        write_pair(folder, "vocab.json", "merges.txt")
    write(folder, CASES[name])
    assert_as_in_transformers(folder)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("said", [True, False, None])
def test_a_space_before_a_text(stored: bool, said: bool | None, folder: Path) -> None:
    """What tokenizer.json has counts only where tokenizer_config.json says it too, as in transformers."""
    data = json.loads(tiny_tokenizer().to_str())
    data["pre_tokenizer"]["add_prefix_space"] = stored
    write(folder, {"tokenizer.json": data})
    if said is not None:
        write(folder, {"tokenizer_config.json": {"add_prefix_space": said}})
    assert_as_in_transformers(folder)


def test_a_template_that_begins_with_a_token(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    write_pair(folder, "vocab.json", "merges.txt")
    write(folder, {"tokenizer_config.json": {"add_bos_token": True, "bos_token": "<|endoftext|>"}})
    assert_as_in_transformers(folder)
    assert read_tokenizer(folder, read_config(folder))[0].encode("the").ids[0] == 0


def test_what_transformers_saves_comes_back(folder: Path, tmp_path: Path) -> None:
    tokenizer = GPT2TokenizerFast(tokenizer_object=tiny_tokenizer(), pad_token="<|pad|>", sep_token="<|sep|>")
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    assert_as_in_transformers(folder)


@pytest.mark.parametrize("form", ["tokenizer.json", "two files", "vocabulary"])
def test_special_tokens_beyond_the_embedding_are_left_out(form: str, folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    if form == "vocabulary":
        data = json.loads(tokenizer.to_str())
        data["model"]["vocab"]["[PAD]"] = 300
        data["added_tokens"].append({**SEP, "content": "[PAD]", "id": 300})
        write(folder, {"tokenizer.json": data})
    else:
        write(folder, {"special_tokens_map.json": {"pad_token": "[PAD]"}})
        change_config(vocab_size=290, pad_token_id=290)(folder)
    if form == "two files":
        (folder / "tokenizer.json").unlink()
        write_pair(folder, "vocab.json", "merges.txt")
    config = read_config(folder)
    found, notes = read_tokenizer(folder, config)
    number = config.vocab_size
    assert notes == (f"[PAD] ({number}): beyond the embedding of {number} tokens, left out",)
    assert found.encode("a [PAD]").ids == tiny_tokenizer().encode("a [PAD]").ids
    assert config.pad_token_id in (0, None)
    assert max(found.get_vocab().values()) < number


def test_other_tokens_beyond_the_embedding_are_refused(folder: Path) -> None:
    write(folder, {"added_tokens.json": {"<new>": 290}})
    change_config(vocab_size=290)(folder)
    with pytest.raises(CheckpointError, match="token '<new>' has id 290, beyond vocab_size 290"):
        read_tokenizer(folder, read_config(folder))


REFUSED: dict[str, tuple[Files, str, str]] = {
    "no id": ({"added_tokens.json": {"a": "b"}}, "added_tokens.json", "'b' is no id"),
    "no token": (
        {"special_tokens_map.json": {"pad_token": 5}},
        "special_tokens_map.json",
        "a token is needed",
    ),
    "empty token": ({"tokenizer_config.json": {"pad_token": ""}}, "tokenizer_config.json", "a text of 1 to"),
    "flags": (
        {"tokenizer_config.json": {"pad_token": {**SEP, "lstrip": "no"}}},
        "tokenizer_config.json",
        "its flags are true or false",
    ),
    "decoder": (
        {"tokenizer_config.json": {"added_tokens_decoder": {"x": SEP}}},
        "tokenizer_config.json",
        "an object from ids",
    ),
    "many": (
        {"added_tokens.json": {f"<{number}>": number for number in range(10_001)}},
        "added_tokens.json",
        "at most 10000",
    ),
    "not split": (
        {"tokenizer_config.json": {"split_special_tokens": True}},
        "tokenizer_config.json",
        "not served",
    ),
    "prefix": (
        {"tokenizer_config.json": {"add_prefix_space": "yes"}},
        "tokenizer_config.json",
        "true or false",
    ),
}


@pytest.mark.parametrize(("files", "field", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(files: Files, field: str, message: str, folder: Path) -> None:
    write(folder, files)
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(folder, read_config(folder))
    assert caught.value.field == field
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("name", "kind"),
    [("vocab.txt", "WordPiece"), ("spiece.model", "SentencePiece"), ("tokenizer.model", "SentencePiece")],
)
def test_another_kind_of_tokenizer_is_named(name: str, kind: str, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / name).write_text("[PAD]\n", "utf-8")
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    assert caught.value.message == f"{name}: a {kind} tokenizer, but only GPT-2's byte-level BPE is served"


MERGES: dict[str, Callable[[str], str]] = {
    "trailing blanks": lambda text: text.replace("\n", " \n"),
    "tabs": lambda text: text.replace("\n", "\t\n"),
    "carriage returns alone": lambda text: text.replace("\n", "\r"),
    "Windows": lambda text: text.replace("\n", "\r\n"),
    "a third column": lambda text: text.replace("\n", " 17\n").replace("0.2 17", "0.2"),
    "no header": lambda text: text.partition("\n")[2],
    "no last line end": lambda text: text.rstrip("\n"),
    "empty lines": lambda text: text.replace("\n", "\n\n"),
}


@pytest.mark.parametrize("name", MERGES)
def test_merges_as_editors_and_tools_leave_them(name: str, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    write_pair(folder, "vocab.json", "merges.txt")
    path = folder / "merges.txt"
    path.write_bytes(MERGES[name](path.read_text("utf-8")).encode())
    found = read_tokenizer(folder, read_config(folder))[0]
    for text in TEXTS:
        assert found.encode(text).ids == tiny_tokenizer().encode(text).ids


def test_merges_of_nothing_are_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    write_pair(folder, "vocab.json", "merges.txt")
    words = {f"word{number}": number for number in range(100, 290)}
    (folder / "vocab.json").write_text(json.dumps(words | {"a": 0}), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(CheckpointError, match=r"merges\.txt: no merges, but vocab\.json has tokens"):
        read_tokenizer(folder, read_config(folder))
