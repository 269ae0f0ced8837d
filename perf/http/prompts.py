"""Texts to send: drawn by a seed, none twice, with a given number of words or of tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from perf.errors import PlanError
from runtime.contract import TOKENIZER_FILE

TRIES = 50  # draws for one text of an exact length
_VOCABULARY = """
the a one this that every old new little great small happy young quiet green red dark bright cold warm
man woman boy girl king dog cat bird tree house door garden river road town film story song book day
night morning water light stone bread letter window table friend mother father teacher doctor saw took
found made gave wanted loved heard opened closed carried played wrote told asked liked in on under over
near with from about after before and but because while then there here never always again slowly away
home together
"""
WORDS = tuple(_VOCABULARY.split())


@dataclass(frozen=True, slots=True)
class Texts:
    """How long a text is: `words`, or `tokens` of the tokenizer in a file."""

    words: int
    tokens: int | None = None
    tokenizer: str | None = None  # a path

    @property
    def length(self) -> str:
        """In words: 24 words."""
        return f"{self.words} words" if self.tokens is None else f"{self.tokens} tokens"

    def draw(self, seed: str) -> Iterator[str]:
        """Endless, and always the same for a seed. Raises PlanError where no text has that many tokens."""
        source = random.Random(seed)
        seen: set[str] = set()
        while True:
            text = self._one(source)
            if text not in seen or self._few():
                seen.add(text)
                yield text

    def _few(self) -> bool:
        """Of one or two words there are not enough to never repeat."""
        return (self.tokens or self.words) < 3

    def _one(self, source: random.Random) -> str:
        if self.tokens is None:
            return " ".join(source.choices(WORDS, k=self.words)).capitalize()
        tokenizer = load_tokenizer(self.tokenizer)
        for _ in range(TRIES):
            text = " ".join(source.choices(WORDS, k=self.tokens)).capitalize()
            # Cut after a token, a text may tokenize otherwise: then another is drawn.
            ids = tokenizer.encode(text, add_special_tokens=False).ids[: self.tokens]
            text = str(tokenizer.decode(ids, skip_special_tokens=False))
            if len(tokenizer.encode(text, add_special_tokens=False).ids) == self.tokens:
                return text
        raise PlanError(f"--prompt-tokens: no text of exactly {self.tokens} in {TRIES} draws")


@lru_cache(maxsize=4)
def load_tokenizer(name: str | None) -> Any:
    """A `tokenizers.Tokenizer` from the path of a file or of the folder that has it. Raises PlanError."""
    from tokenizers import Tokenizer

    if name is None:
        raise PlanError("--prompt-tokens: needs --tokenizer, which counts them")
    path = Path(name)
    file = path / TOKENIZER_FILE if path.is_dir() else path
    if not file.is_file():
        raise PlanError(f"--tokenizer: {file} is no file; name a tokenizer.json, or the folder of a model")
    return Tokenizer.from_file(str(file))
