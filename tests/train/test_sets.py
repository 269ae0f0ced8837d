"""Row counts, labels and alignment of the labelled sets."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from train.data import Kind, read_rows
from train.recipes.rows import READERS, write_rows
from train.recipes.sets import (
    INFERENCES,
    read_banking,
    read_clinc,
    read_sms,
    read_snips,
    read_snli,
    read_sst2,
)


def test_sst2_has_the_published_row_counts(data: Path) -> None:
    counts = [len(read_sst2(data, split)) for split in ("train", "dev", "test")]
    assert counts == [67349, 872, 1821]
    first = read_sst2(data, "test")[0]
    assert (first.text, first.label) == ("uneasy mishmash of styles and genres .", "negative")


def test_snli_splits_share_no_premise(data: Path) -> None:
    splits = [read_snli(data, split) for split in ("train", "valid", "test")]
    assert [len(split) for split in splits] == [16662, 1002, 2002]
    premises = [{example.text for example in split} for split in splits]
    assert not premises[0] & premises[1]
    assert not premises[0] & premises[2]
    assert set(Counter(example.label for example in splits[2])) == set(INFERENCES)


def test_snips_words_and_tags_align(data: Path) -> None:
    splits = [read_snips(data, split) for split in ("train", "valid", "test")]
    assert [len(split) for split in splits] == [13084, 700, 700]
    assert len({utterance.intent for utterance in splits[0]}) == 7
    assert len({tag for utterance in splits[0] for tag in utterance.tags}) == 72
    assert splits[2][0].words[1:3] == ("sabrina", "salerno")
    assert splits[2][0].tags[1:3] == ("B-artist", "I-artist")


def test_intents_and_spam_have_the_published_row_counts(data: Path) -> None:
    assert [len(read_banking(data, split)) for split in ("train", "test")] == [10003, 3080]
    assert len({row.label for row in read_banking(data, "test")}) == 77
    assert [len(read_clinc(data, split)) for split in ("train", "val", "test")] == [15000, 3000, 4500]
    assert [row.label for row in read_clinc(data, "test-oos")].count("oos") == 1000
    assert len({row.label for row in read_clinc(data, "train")}) == 150
    sms = [read_sms(data, split) for split in ("train", "test")]
    assert [len(split) for split in sms] == [4459, 1115]
    assert {row.label for row in sms[1]} == {"ham", "spam"}


def test_rows_that_are_written_are_read(data: Path, tmp_path: Path) -> None:
    for name, (read, splits) in READERS.items():
        rows = read(data, splits[-1])[:50]
        path = tmp_path / f"{name}.jsonl"
        write_rows(path, rows)
        again = read_rows(path, {"snips": Kind.NLU, "stories": Kind.LM}.get(name, Kind.CLASSIFIER))
        assert [replace(row, row=0) for row in again] == [replace(row, row=0) for row in rows]
