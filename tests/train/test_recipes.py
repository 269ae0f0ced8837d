"""The recipes of the heads run from their data to a checkpoint, at a small size on a few rows."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from export.checkpoint.folder import Checkpoint
from train.data import LabelRow
from train.recipes import mini_nli, mini_nlu, mini_sentiment
from train.recipes.classifier import train_plan
from train.recipes.sets import INFERENCES, SENTIMENTS

SNIPS = (
    ("play some jazz", "O O B-genre", "PlayMusic"),
    ("play soul music", "O B-genre I-genre", "PlayMusic"),
    ("rain in rome", "O O B-city", "GetWeather"),
)


def test_nlu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "valid"):
        folder = tmp_path / "data" / "snips_slotgated" / split
        folder.mkdir(parents=True)
        for name, column in (("seq.in", 0), ("seq.out", 1), ("label", 2)):
            (folder / name).write_text("".join(f"{row[column]}\n" for row in SNIPS))
    for name, value in (("VOCABULARY", 270), ("LAYERS", 1), ("WIDTH", 64), ("HEADS", 4)):
        monkeypatch.setattr(mini_nlu, name, value)
    monkeypatch.setattr(mini_nlu, "RUN", replace(mini_nlu.RUN, epochs=1, batch=2))
    mini_nlu.train(tmp_path / "data", tmp_path / "mini-nlu")
    config = Checkpoint.open(tmp_path / "mini-nlu").config
    assert (config.labels, config.bidirectional) == (("GetWeather", "PlayMusic"), True)
    assert (tmp_path / "mini-nlu-training" / "metrics.jsonl").exists()


def test_sentiment(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "sst2_glue"
    folder.mkdir(parents=True)
    for name in ("train_full.tsv", "dev.tsv"):
        (folder / name).write_text("sentence\tlabel\na fine film\t1\na bad film\t0\n")
    runs = tuple(replace(run, epochs=1) for run in mini_sentiment.PLAN.runs)
    plan = replace(mini_sentiment.PLAN, vocabulary=270, layers=1, width=64, runs=runs)
    train_plan(plan, tmp_path / "data", tmp_path / "mini-sentiment")
    assert Checkpoint.open(tmp_path / "mini-sentiment").config.labels == ("negative", "positive")


def test_sentences_count_more_and_words_without_a_row_are_neutral() -> None:
    texts = {"a fine film , fine": "positive", "fine": "positive", "fine film": "positive", "no": "negative"}
    rows = [LabelRow(number, text, None, label) for number, (text, label) in enumerate(texts.items(), 1)]
    weights = Counter((row.text, row.label) for row in mini_sentiment.weighted(rows))
    neutral = {(word, label): 1 for word in ("a", "film", ",") for label in SENTIMENTS}
    repeated = {("a fine film , fine", "positive"): 3, ("no", "negative"): 3}
    assert weights == {("fine", "positive"): 1, ("fine film", "positive"): 1, **repeated, **neutral}


def test_inference(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "snli_resplit"
    folder.mkdir(parents=True)
    # One premise for each fit of the teacher at least.
    rows = [
        f"a man walks past house {house}\ta {who} walks\t{label}\n"
        for house in range(8)
        for label, who in enumerate(("man", "friend", "woman"))
    ]
    for name in ("train.tsv", "valid.tsv"):
        (folder / name).write_text("".join(rows))
    runs = tuple(replace(run, epochs=1) for run in mini_nli.PLAN.runs)
    plan = replace(mini_nli.PLAN, vocabulary=270, layers=1, width=128, runs=runs, from_body=False)
    train_plan(plan, tmp_path / "data", tmp_path / "mini-nli")
    assert Checkpoint.open(tmp_path / "mini-nli").config.labels == INFERENCES
