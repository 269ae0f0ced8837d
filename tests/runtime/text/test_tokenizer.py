"""The tokenizer against GPT-2's published vectors and against the library's own decoder."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from runtime.errors import ModelError
from runtime.text import Tokenizer
from tests.runtime.text.conftest import END_OF_TEXT, train_tokenizer

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("TRAINING_DATA", ROOT / "../shared/data"))


def saved(tokenizer: tokenizers.Tokenizer, folder: Path) -> Path:
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """GPT-2's own vocabulary, put together here so that the test stands apart from `export`."""
    folder = DATA / "gpt2_tokenizer"
    if not folder.is_dir():
        pytest.skip("TRAINING_DATA names no folder with gpt2_tokenizer")
    vocabulary = json.loads((folder / "encoder.json").read_text("utf-8"))
    merges = (folder / "vocab.bpe").read_text("utf-8").split("\n")[1:]
    pairs = [(left, right) for left, _, right in (line.partition(" ") for line in merges if line)]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return Tokenizer(saved(tokenizer, tmp_path_factory.mktemp("gpt2")), eos_token_id=50256)


def test_published_vectors_of_gpt2(gpt2: Tokenizer) -> None:
    with (DATA / "tokenizer_vectors" / "gpt2_encodings.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["input"], json.loads(row["output"])) for row in csv.DictReader(file)]
    assert len(rows) > 200
    assert [gpt2.encode(text) for text, _ in rows] == [ids for _, ids in rows]
    assert [gpt2.decode(ids) for _, ids in rows] == [text for text, _ in rows]


def test_end_of_text_of_gpt2(gpt2: Tokenizer) -> None:
    assert gpt2.encode(END_OF_TEXT) == [50256]
    assert gpt2.encode(END_OF_TEXT, special_tokens=False) == [27, 91, 437, 1659, 5239, 91, 29]
    assert gpt2.decode([31373, 50256]) == "hello"
    assert gpt2.token_text(50256) == END_OF_TEXT


@settings(deadline=None)
@given(text=st.text())
def test_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert tokenizer.eos_token_id not in ids


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 400)))
def test_decodes_any_ids_as_the_library_does(
    tokenizer: Tokenizer, library_tokenizer: tokenizers.Tokenizer, ids: list[int]
) -> None:
    assert tokenizer.decode(ids) == library_tokenizer.decode(ids, skip_special_tokens=True)


def test_special_tokens_of_a_text_are_read_unless_it_is_not_trusted(
    tokenizer: Tokenizer, library_tokenizer: tokenizers.Tokenizer
) -> None:
    text = f"a{END_OF_TEXT}b"
    ids = tokenizer.encode(text)
    assert ids == library_tokenizer.encode(text).ids
    assert ids[1] == 0
    assert tokenizer.decode(ids) == "ab"
    assert b"".join(map(tokenizer.spelled, ids)) == text.encode()
    plain = tokenizer.encode(text, special_tokens=False)
    assert 0 not in plain
    assert tokenizer.decode(plain) == text
    assert tokenizer.encode(text) == ids


def test_token_text_is_readable_and_distinct(tokenizer: Tokenizer) -> None:
    snowman = "☃".encode()
    ids = {tokenizer.token_bytes(token_id): token_id for token_id in range(320)}
    assert tokenizer.token_text(ids[snowman[:1]]) == "bytes:\\xe2"
    assert tokenizer.token_text(ids[b"a"]) == "a"
    assert tokenizer.token_text(ids[b"\n"]) == "\n"
    assert len({tokenizer.token_text(token_id) for token_id in range(320)}) == 320


@pytest.mark.parametrize("token_id", [-1, 320, 10**9])
def test_an_id_without_a_token_adds_nothing(tokenizer: Tokenizer, token_id: int) -> None:
    assert tokenizer.token_bytes(token_id) == b""
    assert tokenizer.decode([token_id]) == ""
    assert tokenizer.token_text(token_id) == f"<|unused_{token_id}|>"


def test_a_lone_surrogate_is_not_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode("a\ud800b")


def test_truncation_and_padding_of_the_file_are_left_out(tmp_path: Path) -> None:
    library = train_tokenizer()
    library.enable_truncation(2)
    library.enable_padding(length=5)
    tokenizer = Tokenizer(saved(library, tmp_path), eos_token_id=0)
    assert tokenizer.decode(tokenizer.encode("one")) == "one"
    assert tokenizer.decode(tokenizer.encode("one two three four five")) == "one two three four five"


def test_added_tokens_keep_their_text(tmp_path: Path) -> None:
    library = train_tokenizer()
    library.add_tokens([AddedToken("<é>", normalized=False)])
    tokenizer = Tokenizer(saved(library, tmp_path), eos_token_id=0)
    ids = tokenizer.encode("a<é>b")
    assert len(ids) == 3
    assert tokenizer.decode(ids) == "a<é>b"
    assert tokenizer.token_text(ids[1]) == "<é>"


def test_normalizer_is_applied(tmp_path: Path) -> None:
    library = train_tokenizer()
    library.normalizer = normalizers.Lowercase()
    tokenizer = Tokenizer(saved(library, tmp_path), eos_token_id=0)
    assert tokenizer.decode(tokenizer.encode("The CAT")) == "the cat"


def test_another_kind_of_vocabulary_is_refused(tmp_path: Path) -> None:
    library = tokenizers.Tokenizer(models.WordPiece(vocab={"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    library.decoder = decoders.WordPiece()
    with pytest.raises(ModelError, match="decoder WordPiece, but only ByteLevel"):
        Tokenizer(saved(library, tmp_path), eos_token_id=0)


def test_a_decoder_is_needed(tmp_path: Path) -> None:
    library = train_tokenizer()
    library.decoder = None
    with pytest.raises(ModelError, match="decoder None"):
        Tokenizer(saved(library, tmp_path), eos_token_id=0)


def test_an_eos_that_is_no_token_adds_nothing(tmp_path: Path) -> None:
    """As where a model has more embeddings than its tokenizer has tokens."""
    tokenizer = Tokenizer(saved(train_tokenizer(), tmp_path), eos_token_id=320)
    assert tokenizer.token_bytes(320) == b""
    assert tokenizer.token_text(320) == "<|unused_320|>"
    assert tokenizer.decode([*tokenizer.encode("the cat"), 320]) == "the cat"


def test_without_an_eos_only_special_tokens_are_control_tokens(tmp_path: Path) -> None:
    library = train_tokenizer()
    (letter,) = library.encode("a").ids
    path = saved(library, tmp_path)
    assert Tokenizer(path, eos_token_id=letter).decode([letter]) == ""
    assert Tokenizer(path, eos_token_id=None).decode([letter, 0]) == "a"


@pytest.mark.parametrize(
    ("decoder", "served"),
    [
        (decoders.Sequence([decoders.ByteLevel()]), True),
        (decoders.Sequence([decoders.Sequence([decoders.ByteLevel()])]), True),
        (decoders.Sequence([]), False),
        (decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()]), False),
        (decoders.Sequence([decoders.ByteLevel(), decoders.Strip("a", 1, 0)]), False),
    ],
)
def test_only_one_decoder_is_served(decoder: Any, served: bool, tmp_path: Path) -> None:
    library = train_tokenizer()
    library.decoder = decoder
    if served:
        assert Tokenizer(saved(library, tmp_path), 0).decode(library.encode("the cat").ids) == "the cat"
        return
    with pytest.raises(ModelError, match="decoder Sequence, but only ByteLevel"):
        Tokenizer(saved(library, tmp_path), 0)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "\x00"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json: not a readable tokenizer"):
        Tokenizer(path, eos_token_id=0)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path / "tokenizer.json", eos_token_id=0)
