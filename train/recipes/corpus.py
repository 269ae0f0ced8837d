"""The training text of mini-lm: readers, cleaning and the mixture.

Every source becomes a list of documents (one story or one book): paragraphs separated by one newline,
straight quotes, no hard line wraps. The same cleaning is applied to the held-out splits.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CHILDREN = ("bryant-stories", "burgess-busterbrown", "carroll-alice", "edgeworth-parents")
NOVELS = ("austen-emma", "austen-persuasion", "chesterton-brown", "chesterton-thursday")

# UTF-8 quotes that were once decoded as cp1252, longest first, then typographic marks.
_REPLACEMENTS = (
    ("â€œ", '"'),
    ("â€™", "'"),
    ("â€˜", "'"),
    ("â€¦", "..."),
    ("â€“", "-"),
    ("â€”", "--"),
    ("â€\x9d", '"'),
    ("â€", '"'),
    ("“", '"'),
    ("”", '"'),
    ("’", "'"),
    ("‘", "'"),
    ("—", "--"),
    ("–", "-"),
    ("…", "..."),
)
_WRAP_COLUMN = 82
_SENTENCE_START = re.compile(r'(^|[.!?]["\')]*\s+["\'(]*|["(]|\n["\']*)([a-z])')
_NAME_SHARE = 0.9
HELD_OUT_EVERY = 40


@dataclass(frozen=True)
class Corpus:
    """Documents by source; each source is sampled with its own weight during training."""

    fairytales: list[str]
    tinystories: list[str]
    children: list[str]
    novels: list[str]

    def documents(self) -> list[str]:
        return [*self.fairytales, *self.tinystories, *self.children, *self.novels]


def straighten(text: str) -> str:
    """Replace typographic and mis-decoded quotes and dashes by their ASCII forms."""
    for old, new in _REPLACEMENTS:
        text = text.replace(old, new)
    return text


def unwrap(text: str, always: bool = False) -> str:
    """Join hard-wrapped lines; paragraphs come back separated by one newline.

    Text counts as wrapped when it has several lines, none longer than a typewriter line, or when `always`.
    """
    lines = text.replace("\r", "").split("\n")
    wrapped = always or (len(lines) >= 4 and max(map(len, lines)) <= _WRAP_COLUMN)
    blocks = re.split(r"\n\s*\n", "\n".join(lines)) if wrapped else lines
    paragraphs = (re.sub(r"\s+", " ", block).strip() for block in blocks)
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


def read_fairytales(data: Path, split: str) -> list[str]:
    """Stories of FairytaleQA, sections joined in order. `split` is train, val or test."""
    stories = []
    for path in sorted((data / "fairytale_qa" / "section-stories" / split).glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            sections = [unwrap(straighten(row["text"])) for row in csv.DictReader(file)]
        stories.append("\n".join(sections))
    return stories


def _letters(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.lower())


def _story_key(story: str) -> str:
    return _letters(story)[:60]


def read_tinystories(data: Path, held_out: bool = False) -> list[str]:
    """The cased stories, then those of the lower-cased file that do not overlap with them, re-cased.

    Every 40th cased story is kept back. With `held_out` these alone, without those that share a passage with
    the others.
    """
    folder = data / "tinystories"
    cased_text = straighten((folder / "tinystories_sample_2MB_cased.txt").read_text("utf-8"))
    # The sample is cut at a byte count, so its last story is a fragment.
    cased = [unwrap(story) for story in cased_text.split("<|endoftext|>")[:-1] if story.strip()]
    kept_back = cased[::HELD_OUT_EVERY]
    seen = {_story_key(story) for story in kept_back}
    cased = [story for story in cased if _story_key(story) not in seen]
    lowered_text = straighten((folder / "tinystories_4MB.txt").read_text("utf-8"))
    # Paragraphs are separated by blank lines, stories by a single newline.
    lowered = re.split(r"(?<!\n)\n(?!\n)", lowered_text)[:-1]
    seen |= {_story_key(story) for story in cased}
    fresh: list[str] = []
    for story in lowered:
        key = _story_key(story)
        if len(story) >= 200 and key not in seen:
            seen.add(key)
            fresh.append(unwrap(story))
    if held_out:
        return without_shared_passages(kept_back, cased + fresh)
    names = proper_names(cased)
    return cased + [recase(story, names) for story in fresh]


def without_shared_passages(stories: Iterable[str], others: Iterable[str], letters: int = 80) -> list[str]:
    """Those stories of which no piece of this many letters, in any case, is in the others."""
    known = "\n".join(map(_letters, others))
    found = []
    for story in stories:
        text = _letters(story)
        pieces = (text[start : start + letters] for start in range(0, len(text) - letters, letters))
        if not any(piece in known for piece in pieces):
            found.append(story)
    return found


def proper_names(texts: Iterable[str]) -> dict[str, str]:
    """Words nearly always capitalised in the middle of a sentence, keyed by their lower-case form."""
    upper: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for text in texts:
        for word in re.findall(r"(?<=[a-z,;] )[A-Za-z]+", text):
            total[word.lower()] += 1
            upper[word.lower()] += word[0].isupper()
    return {
        word: word.capitalize()
        for word, count in total.items()
        if count >= 3 and upper[word] >= _NAME_SHARE * count
    }


def recase(text: str, names: dict[str, str]) -> str:
    """Capitalise sentence starts, the pronoun I and known names of a lower-cased text."""
    text = _SENTENCE_START.sub(lambda found: found.group(1) + found.group(2).upper(), text)
    return re.sub(r"[A-Za-z]+", lambda found: names.get(found.group(), found.group()), text)


def read_books(data: Path, names: Iterable[str]) -> list[str]:
    """Gutenberg books by file stem, without their bracketed title line."""
    books = []
    for name in names:
        text = (data / "gutenberg" / f"{name}.txt").read_text("latin-1")
        text = re.sub(r"^\s*\[[^\]]*\]\s*", "", straighten(text))
        books.append(unwrap(text.replace("_", ""), always=True))
    return books


def read_corpus(data: Path) -> Corpus:
    """All training text of mini-lm; no held-out story is in it."""
    return Corpus(
        fairytales=read_fairytales(data, "train"),
        tinystories=read_tinystories(data),
        children=read_books(data, CHILDREN),
        novels=read_books(data, NOVELS),
    )
