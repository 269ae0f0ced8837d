"""Readers of the labelled sets: SST-2, the re-split SNLI and SNIPS."""

from pathlib import Path

from train.data import LabelRow, UtteranceRow

SENTIMENTS = ("negative", "positive")
INFERENCES = ("entailment", "neutral", "contradiction")

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
