"""Row counts, labels and alignment of the labelled sets."""

from collections import Counter
from pathlib import Path

from train.recipes.sets import INFERENCES, read_snips, read_snli, read_sst2


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
