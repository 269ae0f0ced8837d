"""Readers of the labelled sets: SST-2, the re-split SNLI, SNIPS, BANKING77, CLINC150 and SMS spam."""

import csv
import json
from pathlib import Path

from train.data import LabelRow, UtteranceRow

SENTIMENTS = ("negative", "positive")
INFERENCES = ("entailment", "neutral", "contradiction")

SMS_TRAIN = 4459
_SST2_FILES = {"train": "train_full.tsv", "dev": "dev.tsv", "test": "test-labeled.tsv"}


def read_sst2(data: Path, split: str) -> list[LabelRow]:
    """SST-2 rows. `split` is train, dev or test; labels are SENTIMENTS."""
    lines = (data / "sst2_glue" / _SST2_FILES[split]).read_text("utf-8").splitlines()
    rows = [(number, line.rsplit("\t", 1)) for number, line in enumerate(lines, 1) if line.strip()]
    return [
        LabelRow(number, text.strip(), None, SENTIMENTS[int(label)]) for number, (text, label) in rows[1:]
    ]


def read_snli(data: Path, split: str) -> list[LabelRow]:
    """Premise and hypothesis pairs. `split` is train, valid or test; labels are INFERENCES."""
    lines = (data / "snli_resplit" / f"{split}.tsv").read_text("utf-8").splitlines()
    rows = [(number, line.split("\t")) for number, line in enumerate(lines, 1) if line.strip()]
    return [
        LabelRow(number, premise.strip(), hypothesis.strip(), INFERENCES[int(label)])
        for number, (premise, hypothesis, label) in rows
    ]


def read_banking(data: Path, split: str) -> list[LabelRow]:
    """BANKING77 rows. `split` is train or test."""
    with (data / "banking77" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return [
            LabelRow(number, row["text"].strip(), None, row["category"])
            for number, row in enumerate(csv.DictReader(file), 2)
        ]


def read_clinc(data: Path, split: str) -> list[LabelRow]:
    """CLINC150 rows. `split` is train, val or test; with -oos the rows out of scope come after those."""
    found = json.loads((data / "clinc150" / "data_full.json").read_text("utf-8"))
    name = split.removesuffix("-oos")
    pairs = found[name] + (found[f"oos_{name}"] if name != split else [])
    return [LabelRow(number, text, None, label) for number, (text, label) in enumerate(pairs, 1)]


def read_sms(data: Path, split: str) -> list[LabelRow]:
    """The SMS spam collection, which has no splits: its first 4,459 messages are train, the rest test."""
    lines = (data / "sms_spam" / "SMSSpamCollection").read_text("utf-8").split("\n")
    pairs = [(number, line.split("\t", 1)) for number, line in enumerate(lines, 1) if line.strip()]
    rows = [LabelRow(number, text.strip(), None, label) for number, (label, text) in pairs]
    return rows[:SMS_TRAIN] if split == "train" else rows[SMS_TRAIN:]


def read_snips(data: Path, split: str) -> list[UtteranceRow]:
    """SNIPS utterances. `split` is train, valid or test."""
    folder = data / "snips_slotgated" / split
    words, tags, intents = (
        (folder / name).read_text("utf-8").splitlines() for name in ("seq.in", "seq.out", "label")
    )
    utterances = []
    for row, (word_line, tag_line, intent) in enumerate(zip(words, tags, intents, strict=True), 1):
        utterance = UtteranceRow(row, tuple(word_line.split()), tuple(tag_line.split()), intent.strip())
        if len(utterance.words) != len(utterance.tags):
            raise ValueError(
                f"{split}: {len(utterance.words)} words, {len(utterance.tags)} tags: {word_line}"
            )
        utterances.append(utterance)
    return utterances
