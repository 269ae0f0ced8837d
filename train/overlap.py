"""Words that hypothesis and premise share: a linear teacher, and targets for learning to match them.

The teacher is a logistic regression on the hypothesis, its overlap with the premise and pairs of words across
both (after Bowman et al., A large annotated corpus for learning natural language inference, 2015).
"""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from tokenizers import Encoding
from torch import Tensor

from train.data import LabelRow

_WORD = re.compile(r"[a-z']+|\d+")
_SUFFIX = re.compile(r"(ing|ed|es|s|ly)$")
_FUNCTION_WORDS = frozenset(
    {
        "a",
        "an",
        "the",
        "is",
        "are",
        "in",
        "on",
        "of",
        "to",
        "and",
        "with",
        "at",
        "his",
        "her",
        "their",
        "its",
        "by",
        "for",
        "some",
        "it",
    }
)
FOLDS = 4
# Tokens outside of the hypothesis, and tokens that are no word, have no target.
NO_TARGET = -1.0
TOKEN_TARGETS = 2
PAIR_TARGETS = 3


def stem(word: str) -> str:
    """The word without a common English ending, if it is longer than four letters."""
    return _SUFFIX.sub("", word) if len(word) > 4 else word


def stems(text: str) -> list[str]:
    return [stem(word) for word in _WORD.findall(text.lower())]


def _content(example: LabelRow) -> tuple[list[str], list[str]]:
    """Stems of the hypothesis that are not function words: all of them, and those the premise lacks."""
    known = set(stems(example.text))
    content = [word for word in stems(example.text_pair or "") if word not in _FUNCTION_WORDS]
    return content, [word for word in content if word not in known]


def features(example: LabelRow) -> dict[str, float]:
    """The teacher's features of a pair."""
    premise, hypothesis = (_WORD.findall(part.lower()) for part in (example.text, example.text_pair or ""))
    known, pieces = set(map(stem, premise)), list(map(stem, hypothesis))
    content, new = _content(example)
    premise_pairs = set(pairwise(map(stem, premise)))
    pairs = list(pairwise(pieces))
    found = {
        "overlap": 1 - len(new) / max(1, len(content)),
        "new": len(new) / 3,
        "nothing new": float(not new),
        "hypothesis words": len(hypothesis) / 10,
        "premise words": len(premise) / 20,
        "longer by": (len(hypothesis) - len(premise)) / 10,
        "pairs overlap": sum(pair in premise_pairs for pair in pairs) / max(1, len(pairs)),
    }
    found |= {f"word {word}": 1.0 for word in hypothesis}
    found |= {f"words {a} {b}": 1.0 for a, b in zip(["^", *hypothesis], [*hypothesis, "$"], strict=True)}
    found |= {f"new {word}": 1.0 for word in new}
    found |= {f"known {a in known} {b in known}": 1.0 for a, b in pairs}
    found |= {f"across {word} {other}": 0.5 for word in new for other in known - _FUNCTION_WORDS}
    return found


def teach(examples: Sequence[LabelRow], labels: Sequence[int]) -> Tensor:
    """Probabilities [examples, labels] of the teacher, each from a fit that has not seen that premise.

    `labels` are the ids of the examples' labels.
    """
    rows = DictVectorizer().fit_transform([features(example) for example in examples])
    wanted = np.array(labels)
    premises = np.unique([example.text for example in examples], return_inverse=True)[1]
    result = np.zeros((len(examples), wanted.max() + 1), np.float32)
    for seen, unseen in GroupKFold(FOLDS).split(rows, groups=premises):
        fit = LogisticRegression(C=0.2, max_iter=200).fit(rows[seen], wanted[seen])
        result[unseen] = fit.predict_proba(rows[unseen])
    return torch.from_numpy(result)


def pair_targets(example: LabelRow) -> list[float]:
    """[PAIR_TARGETS]: 1 if no content word of the hypothesis is new, the share of new ones, 1 if one is."""
    content, new = _content(example)
    return [float(not new), len(new) / max(1, len(content)), float(len(new) == 1)]


def token_targets(example: LabelRow, encoding: Encoding, closing: int) -> Tensor:
    """[tokens, TOKEN_TARGETS]: 1 if the premise has the token, and 1 if it has the stem of its word.

    `NO_TARGET` outside the last part, the hypothesis; parts end with the token `closing`.
    """
    ids, last = encoding.ids, len(encoding.ids) - 1
    start = max(index for index in range(last) if ids[index] == closing) + 1
    premise = {token for token, part in zip(ids, encoding.type_ids, strict=True) if part == 0} - {closing}
    known = set(stems(example.text))
    hypothesis = (example.text_pair or "").lower()
    words = [(m.start(), m.end(), stem(m.group()) in known) for m in _WORD.finditer(hypothesis)]
    result = torch.full((len(ids), TOKEN_TARGETS), NO_TARGET)
    for index in range(start, last):
        end = encoding.offsets[index][1]
        result[index, 0] = ids[index] in premise
        result[index, 1] = next((float(hit) for left, right, hit in words if left < end <= right), NO_TARGET)
    return result
