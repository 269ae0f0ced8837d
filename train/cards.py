"""Model cards: README.md of a checkpoint folder, front matter as on the Hugging Face hub."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from train.checkpoint import folder_bytes


@dataclass(frozen=True)
class DataSource:
    """Where text or labels came from."""

    name: str
    origin: str
    licence: str
    use: str


@dataclass(frozen=True)
class Figure:
    """One measured number, and how it was measured."""

    what: str
    value: str
    how: str


TINYSTORIES = DataSource(
    "TinyStories, first 6 MB",
    "https://github.com/gusjengis/toy-RNN, https://github.com/Arnoochka/Transformer-Parallelism",
    "CDLA-Sharing-1.0",
    "training, every 40th story of the first file for choosing and for the figures; the second file is "
    "lower-cased and was re-cased, overlapping stories removed",
)
FAIRYTALES = DataSource(
    "FairytaleQA stories",
    "https://github.com/uci-soe/FairytaleQAData",
    "Apache-2.0 (the tales are in the public domain)",
    "train split for training, val for choosing, test for the figures",
)
GUTENBERG = DataSource(
    "Eight books of Project Gutenberg (NLTK's selection)",
    "https://github.com/teropa/nlp",
    "public domain",
    "training",
)
SNIPS = DataSource(
    "SNIPS in the split of Slot-Gated SLU",
    "https://github.com/MiuLab/SlotGated-SLU, from https://github.com/snipsco/nlu-benchmark",
    "CC0-1.0 (origin)",
    "train for training, valid for choosing, test for the figures",
)
SST2 = DataSource(
    "SST-2 (GLUE)",
    "https://github.com/eyalbd2/Reproducing-AutoPrompt, from https://nlp.stanford.edu/sentiment/",
    "Apache-2.0 (repository); data by Stanford",
    "67,349 phrases for training, dev for choosing, the labelled test sentences for the figures",
)
SNLI = DataSource(
    "SNLI, official dev and test files re-split by premise",
    "https://github.com/chenxingphh/rmib, from https://nlp.stanford.edu/projects/snli/",
    "CC-BY-SA-4.0",
    "train for training, valid for choosing, test for the figures",
)

TEMPLATE = """---
{language}license: {card.licence}
library_name: transformers
pipeline_tag: {card.pipeline_tag}
tags: [{tags}]
---

# {card.name}

{card.summary}

{card.shape} Weights are fp16; about {megabytes:.1f} MB in all.

## Data

| data | from | licence | use |
| --- | --- | --- | --- |
{data}

## Recipe

{card.recipe}

```
{card.command}
```

## Figures

Computed from the saved fp16 checkpoint, read back and run in fp32.

| figure | value | how measured |
| --- | --- | --- |
{figures}

{sections}

## Limits

{limits}
"""


@dataclass(frozen=True)
class Card:
    """The content of a card, in its order. `text` sections are Markdown by heading."""

    name: str
    pipeline_tag: str
    licence: str
    summary: str
    shape: str
    data: Sequence[DataSource]
    recipe: str
    command: str
    figures: Sequence[Figure]
    sections: dict[str, str] = field(default_factory=dict)
    limits: Sequence[str] = ()
    tags: Sequence[str] = ("gpt2", "lmaas", "from-scratch")
    language: str | None = "en"

    def render(self, size: int) -> str:
        """The Markdown text; `size` is the folder's size in bytes."""
        data = "\n".join(f"| {d.name} | {d.origin} | {d.licence} | {d.use} |" for d in self.data)
        figures = "\n".join(f"| {f.what} | {f.value} | {f.how} |" for f in self.figures)
        sections = "\n\n".join(f"## {title}\n\n{text}" for title, text in self.sections.items())
        limits = "\n".join(f"- {limit}" for limit in self.limits)
        return TEMPLATE.format(
            card=self,
            language=f"language: {self.language}\n" if self.language else "",
            tags=", ".join(self.tags),
            megabytes=size / 1e6,
            data=data,
            figures=figures,
            sections=sections,
            limits=limits,
        )

    def write(self, folder: Path) -> None:
        """Write README.md into the checkpoint folder."""
        (folder / "README.md").write_text(self.render(folder_bytes(folder)), "utf-8")
