"""Checks over whole files, preprocessing with its counts, and the held-out share."""

from collections import Counter
from pathlib import Path

import pytest

from train.data import (
    DataError,
    Label,
    LabelRow,
    Preprocessing,
    TextRow,
    UtteranceRow,
    check_rows,
    preprocess,
    split_rows,
)
from train.data.preprocessing import pack, shared_texts

TRAIN, TEST = Path("train.csv"), Path("test.csv")


def rows(*labels: Label, pair: str | None = None) -> list[LabelRow]:
    return [LabelRow(number, f"text {number}", pair, label) for number, label in enumerate(labels, 2)]


def test_good_rows_pass() -> None:
    check_rows((TRAIN, rows("a", "b")), {TEST: rows("b")})
    check_rows((TRAIN, rows(("a",), ())), {TEST: rows(())})
    check_rows((TRAIN, rows(0.5, 1.0)), {TEST: rows(7.0)})
    check_rows((TRAIN, [TextRow(1, "a")]), {TEST: [TextRow(1, "b")]})


@pytest.mark.parametrize(
    ("train", "test", "where", "words"),
    [
        (rows("a", "a"), rows("a"), (TRAIN, None), "all 2 rows have the label 'a'"),
        (rows(1.0, 1.0), rows(2.0), (TRAIN, None), "all 2 rows have the label 1.0"),
        (rows((), ()), rows(()), (TRAIN, None), "no row has a class"),
        (rows("a", "b"), rows("a", "c"), (TEST, 3), "'c' is in no row of the training data, which has a, b"),
        (rows(("a",), ("b",)), rows(("a", "c")), (TEST, 2), "'c' is in no row"),
        (rows("a", "b"), rows("a", pair="x"), (TEST, 2), "has one text"),
        ([*rows("a", "b", pair="x"), *rows("a")], rows("a"), (TRAIN, 2), "a pair of texts"),
    ],
)
def test_bad_labels(
    train: list[LabelRow], test: list[LabelRow], where: tuple[Path, int | None], words: str
) -> None:
    with pytest.raises(DataError) as caught:
        check_rows((TRAIN, train), {TEST: test})
    assert (caught.value.path, caught.value.row) == where
    assert words in str(caught.value)


def test_intents_and_tags_are_known() -> None:
    known = UtteranceRow(1, ("a", "b"), ("O", "B-x"), "i")
    with pytest.raises(DataError, match=r"test.csv: row 4: intent: 'j' is in no row"):
        check_rows((TRAIN, [known]), {TEST: [UtteranceRow(4, ("a",), ("O",), "j")]})
    with pytest.raises(DataError, match=r"test.csv: row 5: tags: 'I-x' is in no row"):
        check_rows((TRAIN, [known]), {TEST: [UtteranceRow(5, ("a", "b"), ("B-x", "I-x"), "i")]})


def test_preprocessing_counts_what_it_does() -> None:
    given = [
        LabelRow(1, "cafe\u0301", None, "a"),
        LabelRow(2, "caf\u00e9", None, "a"),
        LabelRow(3, "caf\u00e9", None, "b"),
        LabelRow(4, "x", None, "b"),
        LabelRow(5, "y" * 40, None, "b"),
    ]
    kept, reports = preprocess(given, Preprocessing(min_characters=2, max_characters=20))
    assert [(row.row, row.text) for row in kept] == [(1, "caf\u00e9"), (3, "caf\u00e9")]
    assert [str(report) for report in reports] == [
        "--normalize nfc: rows changed 1",
        "--min-characters 2: rows dropped 1",
        "--max-characters 20: rows dropped 1",
        "--deduplicate: rows dropped 1",
        "--deduplicate: rows kept whose text is there with another label 1",
    ]
    untouched, nothing = preprocess(given, Preprocessing(normalize="none", deduplicate=False))
    assert (untouched, nothing) == (given, [])


def test_words_of_utterances_keep_their_tags() -> None:
    row = UtteranceRow(1, ("\ufb01sh", "\u00a8"), ("O", "B-x"), "i")
    ((changed,), _) = preprocess([row], Preprocessing(normalize="nfkc"))
    assert changed.words == ("fish", "\u0308")


def test_shared_texts_are_counted() -> None:
    assert (
        shared_texts(rows("a", "b"), [LabelRow(9, "text 3", None, "c"), LabelRow(9, "new", None, "c")]) == 1
    )


def test_packing() -> None:
    packed = list(pack([[1, 2, 3], [4], [5, 6, 7, 8]], 4, 0))
    assert packed == [[0, 1, 2, 3], [0, 4, 0, 5], [6, 7, 8]]
    assert list(pack([[1, 2, 3]], 3, 0)) == [[0, 1, 2]]  # one token alone predicts nothing


def test_a_split_keeps_the_shares_of_classes() -> None:
    given = rows(*("a",) * 80, *("b",) * 20, "c")
    train, held_out = split_rows(given, 0.2, seed=1)
    assert Counter(row.label for row in held_out) == {"a": 16, "b": 4}
    assert {row.label for row in train} == {"a", "b", "c"}
    assert sorted([*train, *held_out], key=lambda row: row.row) == given
    assert split_rows(given, 0.2, seed=1) == (train, held_out)
    assert split_rows(given, 0.2, seed=2) != (train, held_out)


def test_a_small_split_has_one_row() -> None:
    assert [len(part) for part in split_rows(rows("a", "a", "a"), 0.01, seed=0)] == [2, 1]
    with pytest.raises(ValueError, match="cannot be split"):
        split_rows([TextRow(1, "a")], 0.5, seed=0)
