"""A new bag of n-grams is fitted before the body trains: logistic regression, or ridge regression of a value.

Both together are a mean of two models that err in different ways. Trained jointly from zeros, the bag would
overfit: its weights are many, and the penalty that they need is not the body's. How much each says
in an answer is chosen after the training.

An n-gram's weight is one of its own, or, where held-out rows find that better, the sum of it and of those of
the character n-grams in its text (fastText's subwords: Bojanowski et al., 2017). So words that are spelled
alike share what they say, and the served table has a row for an n-gram as before. A character n-gram that
spans tokens belongs to the n-gram of these tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags, hstack, identity
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from tokenizers import Tokenizer
from torch import Tensor

from train.batching import pad
from train.data import Problem
from train.head_parts import NgramBag
from train.heads import mixed_logits, problem_of, target_loss

STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # C of the regression, the inverse of its penalty
CHARACTERS = (2, 3, 4, 5)  # of character n-grams within words, with the space on either side
SHARPNESS = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0)  # scales of the logits, as a strong penalty makes them too small
SHARED = 0.3  # the scale of what a character n-gram says, that of an n-gram's own weight being 1
BOUNDARIES = frozenset("\u0120\u2581 ")  # a space as byte-level and SentencePiece tokens write it
SPECIAL = "\0"  # the text of a special token
NEW = "\1"  # before the text of a token that the first text of a pair lacks
ITERATIONS = 300
TOLERANCE = 1e-3  # the gradient of the mean loss at which a fit ends; with many rows it can end too early
MIN_ROWS = 2  # an n-gram of fewer training rows has no weight
# A token that every row has (the end of the text) is the intercept: a larger value has a smaller penalty.
INTERCEPT = 5
_CHUNK = 4096  # rows at once


def fit_bag(
    training: Any, rows: Sequence[Any], held_out: Sequence[Any], tolerance: float = TOLERANCE
) -> str | None:
    """Fit the bag of a training that has a new one; `held_out` chooses the strength. A line about it.

    None where there is no bag, where it has weights, or where no n-gram is in two rows.
    """
    model = _model_of(training)
    bag = getattr(model, "ngrams", None)
    if bag is None or bool(bag.weight.any()):
        return None
    ids, targets = training.for_bag(rows)
    shares, (asked, wanted) = _shares(bag, ids), training.for_bag(held_out)
    places, spelled = _spelling(bag, ids, training.tokenizer)
    shares, others = shares[:, places], _shares(bag, asked)[:, places]
    # Columns: of each n-gram itself, and of each character n-gram.
    parts = hstack([identity(len(places), np.float32, "csr"), spelled]).tocsr()
    rows_of = np.asarray(((shares @ parts) > 0).sum(axis=0)).ravel()
    kept = np.flatnonzero(rows_of >= MIN_ROWS)
    if not len(kept):
        return None
    rarity = np.log((1 + len(ids)) / (1 + rows_of[kept])).astype(np.float32) + 1
    rarity[rows_of[kept] == len(ids)] *= INTERCEPT
    rarity[kept >= len(places)] *= SHARED
    parts = (parts[:, kept] @ diags(rarity)).tocsr()
    own = int((kept < len(places)).sum())
    problem = problem_of(model.config)
    fits = [
        _fit(shares, others, columns, targets.numpy(), wanted, problem, tolerance)
        for columns in ([parts[:, :own]] if own else []) + ([parts] if own < len(kept) else [])
    ]
    best = min(fits, key=lambda fit: fit.loss)
    with torch.no_grad():
        bag.weight[torch.from_numpy(places)] = torch.from_numpy(best.weights / 2).to(bag.weight)
    bag.fitted = True
    what = ", and the characters in them," if best.columns > own else ""
    strength = f"with strength {best.strength:g}, held-out loss {best.loss:.4g}"
    return f"n-grams: {len(places):,}{what} fitted {strength}"


@dataclass(frozen=True)
class _Fit:
    loss: float  # of the held-out rows
    strength: float
    columns: int
    weights: NDArray[np.float32]  # [n-grams, labels]


def _fit(
    shares: csr_matrix,
    others: csr_matrix,
    parts: csr_matrix,
    targets: NDArray[np.float32],
    wanted: Tensor,
    problem: Problem,
    tolerance: float,
) -> _Fit:
    """The fit of the strength, and of the scale of its logits, that the held-out rows `others` choose."""
    features, asked = (shares @ parts).tocsr(), (others @ parts).tocsr()
    best: _Fit | None = None
    for strength in STRENGTHS:
        weights = _regression(features, targets, problem, strength, tolerance)
        logits = torch.from_numpy(asked @ weights)
        losses = {scale: float(target_loss(scale * logits, wanted, problem)) for scale in SHARPNESS}
        scale = min(losses, key=losses.__getitem__)
        if best is not None and not losses[scale] < best.loss:
            break
        best = _Fit(losses[scale], strength, parts.shape[1], np.float32(scale) * (parts @ weights))
    assert best is not None
    return best


@torch.no_grad()
def weigh_bag(training: Any, held_out: Sequence[Any]) -> str | None:
    """Scale the body of a classifier and its fitted bag, as `mixed_logits` on `held_out`: they are one then.

    A line about it; None where no bag was fitted, or where it is no classifier's.
    """
    model = _model_of(training)
    bag = getattr(model, "ngrams", None)
    if bag is None or not bag.fitted or not hasattr(model, "score"):
        return None
    ids, wanted = training.for_bag(held_out)
    of_body, of_bag, logits = mixed_logits(model, ids, wanted)
    model.score.weight *= 2 * of_body
    bag.weight *= 2 * of_bag
    bag.fitted = False
    scaled = f"{of_body:g} of the transformer's and {of_bag:g} of the n-grams'"
    loss = float(target_loss(logits, wanted, problem_of(model.config)))
    return f"logits: {scaled}, held-out loss {loss:.4g}"


def _model_of(training: Any) -> Any:
    """Without the auxiliary heads that a training of pairs has."""
    return getattr(training, "model", training.module)


def _shares(bag: NgramBag, ids: Sequence[Sequence[int]]) -> csr_matrix:
    """[rows, buckets]: how often a row has each n-gram, over the root of the number of its n-grams."""
    places: list[NDArray[np.int64]] = []
    owners: list[NDArray[np.int64]] = []
    for first in range(0, len(ids), _CHUNK):
        some = ids[first : first + _CHUNK]
        for buckets, inside in bag.places(pad(some, 0), torch.tensor([len(row) for row in some])):
            places.append(buckets[inside].numpy())
            owners.append(first + inside.nonzero()[:, 0].numpy())
    owner, place = np.concatenate(owners), np.concatenate(places)
    roots = np.sqrt(np.bincount(owner, minlength=len(ids)))
    shape = (len(ids), len(bag.weight))
    return csr_matrix(((1 / roots[owner]).astype(np.float32), (owner, place)), shape)


def _spelling(
    bag: NgramBag, ids: Sequence[Sequence[int]], tokenizer: Tokenizer
) -> tuple[NDArray[np.int64], csr_matrix]:
    """The buckets of all n-grams [n], and the counts [n, ...] of the character n-grams that belong to each.

    Of several n-grams in one bucket the first one is spelled.
    """
    grams: dict[int, tuple[int, ...]] = {}
    for first in range(0, len(ids), _CHUNK):
        some = ids[first : first + _CHUNK]
        rows, lengths = pad(some, 0), torch.tensor([len(row) for row in some])
        for found, (buckets, inside) in zip(bag.grams(rows), bag.places(rows, lengths), strict=True):
            places, firsts = np.unique(buckets[inside].numpy(), return_index=True)
            for place, gram in zip(places.tolist(), found[inside][firsts].tolist(), strict=True):
                grams.setdefault(place, tuple(gram))
    text = _texts(tokenizer)
    columns: dict[str, int] = {}
    owners, found_in = [], []
    for number, gram in enumerate(grams.values()):
        for characters in characters_in([text(token) for token in gram]):
            owners.append(number)
            found_in.append(columns.setdefault(characters, len(columns)))
    counts = csr_matrix((np.ones(len(owners), np.float32), (owners, found_in)), (len(grams), len(columns)))
    return np.array(list(grams), np.int64), counts


def _texts(tokenizer: Tokenizer) -> Callable[[int], str]:
    """The text of a token, which may have the mark of a bag for pairs."""
    special, size = tokenizer.get_added_tokens_decoder(), tokenizer.get_vocab_size()

    def text(token: int) -> str:
        if token >= size:
            return NEW + text(token - size)
        return SPECIAL if token in special else str(tokenizer.id_to_token(token))

    return text


def characters_in(tokens: Sequence[str]) -> Iterator[str]:
    """Character n-grams within words of the tokens' text that reach from the first token into the last."""
    text = "".join(tokens)
    before, after = len(tokens[0]), len(text) - len(tokens[-1])
    for length in CHARACTERS:
        for start in range(min(before, len(text) - length + 1)):
            piece = text[start : start + length]
            if start + length > after and BOUNDARIES.isdisjoint(piece[1:-1]):
                yield piece


def _regression(
    features: csr_matrix,
    targets: NDArray[np.float32],
    problem: Problem,
    strength: float,
    tolerance: float,
) -> NDArray[np.float32]:
    """Weights [features, labels] without an intercept."""
    if problem is Problem.REGRESSION:
        ridge = Ridge(alpha=1 / strength, fit_intercept=False).fit(features, targets)
        return np.asarray(ridge.coef_.reshape(len(targets[0]), -1).T, np.float32)
    model = LogisticRegression(C=strength, fit_intercept=False, max_iter=ITERATIONS, tol=tolerance)
    found = np.zeros((features.shape[1], targets.shape[1]), np.float32)
    with warnings.catch_warnings():
        # What the last iterations change is less than what the strength does.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if problem is Problem.MULTI:
            for label, has in enumerate(targets.T):
                if has.min() < has.max():
                    found[:, label] = model.fit(features, has > 0.5).coef_[0]
            return found
        model.fit(features, targets.argmax(axis=1))
    if len(model.classes_) == 2:
        found[:, model.classes_] = model.coef_.T * (-0.5, 0.5)
    else:
        found[:, model.classes_] = model.coef_.T
    return found
