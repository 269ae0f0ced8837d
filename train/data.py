"""Readers of the labelled sets: SST-2, the re-split SNLI and SNIPS."""

from dataclasses import dataclass
from pathlib import Path

SENTIMENTS = ("negative", "positive")
INFERENCES = ("entailment", "neutral", "contradiction")

_SST2_FILES = {"train": "train_full.tsv", "dev": "dev.tsv", "test": "test-labeled.tsv"}


@dataclass(frozen=True)
class Example:
    """A text, or a pair of texts, with the index of its label."""

    text: str
    label: int
    pair: str | None = None


@dataclass(frozen=True)
class Utterance:
    """The words of one utterance with their BIO tags, and the intent."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    intent: str


def read_sst2(data: Path, split: str) -> list[Example]:
    """SST-2 rows. `split` is train, dev or test; label 1 is positive."""
    lines = (data / "sst2_glue" / _SST2_FILES[split]).read_text("utf-8").splitlines()[1:]
    rows = (line.rsplit("\t", 1) for line in lines if line.strip())
    return [Example(sentence.strip(), int(label)) for sentence, label in rows]


def read_snli(data: Path, split: str) -> list[Example]:
    """Premise and hypothesis pairs. `split` is train, valid or test; labels index INFERENCES."""
    lines = (data / "snli_resplit" / f"{split}.tsv").read_text("utf-8").splitlines()
    rows = (line.split("\t") for line in lines if line.strip())
    return [Example(premise.strip(), int(label), hypothesis.strip()) for premise, hypothesis, label in rows]


def read_snips(data: Path, split: str) -> list[Utterance]:
    """SNIPS utterances. `split` is train, valid or test."""
    folder = data / "snips_slotgated" / split
    words, tags, intents = (
        (folder / name).read_text("utf-8").splitlines() for name in ("seq.in", "seq.out", "label")
    )
    utterances = []
    for word_line, tag_line, intent in zip(words, tags, intents, strict=True):
        utterance = Utterance(tuple(word_line.split()), tuple(tag_line.split()), intent.strip())
        if len(utterance.words) != len(utterance.tags):
            raise ValueError(
                f"{split}: {len(utterance.words)} words, {len(utterance.tags)} tags: {word_line}"
            )
        utterances.append(utterance)
    return utterances
