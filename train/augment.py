"""Turn tokenized, lower-cased data into text as people type it."""

import re
from dataclasses import replace

import numpy as np

from train.data import LabelRow

# Penn Treebank spacing of SST-2, undone in this order.
_DETOKENISE = (
    (re.compile(r"\s*-lrb-\s*"), " ("),
    (re.compile(r"\s*-rrb-"), ")"),
    (re.compile(r"``\s*|\s*''"), '"'),
    (re.compile(r" (n't|'s|'re|'ve|'ll|'d|'m)\b"), r"\1"),
    (re.compile(r" ([.,;:!?%])"), r"\1"),
    (re.compile(r"(\.) (?=\.)"), r"\1"),
    (re.compile(r"\$ (?=\d)"), "$"),
    (re.compile(r"\( "), "("),
    (re.compile(r" \)"), ")"),
    (re.compile(r" '(?=\s|$)"), "'"),
    (re.compile(r"\s{2,}"), " "),
)
_ENDS = ("", ".", "!", " .", "...")


def detokenise(text: str) -> str:
    """Undo treebank tokenisation: `it 's a charming film .` becomes `it's a charming film.`"""
    for pattern, replacement in _DETOKENISE:
        text = pattern.sub(replacement, text)
    return text.strip()


def as_review(example: LabelRow, generator: np.random.Generator) -> LabelRow:
    """Half of the time leave the phrase as it is; otherwise write it as people do, with or without a mark."""
    if generator.random() < 0.5:
        return example
    bare = detokenise(example.text).rstrip(" .!")
    text = bare + _ENDS[int(generator.integers(len(_ENDS)))]
    return replace(example, text=text if bare else example.text)


def as_statement(example: LabelRow, generator: np.random.Generator) -> LabelRow:
    """End premise and hypothesis each with a full stop, one time in four."""
    assert example.text_pair is not None
    text, pair = (
        part.rstrip(" .") + "." if generator.random() < 0.25 else part
        for part in (example.text, example.text_pair)
    )
    return replace(example, text=text, text_pair=pair)
