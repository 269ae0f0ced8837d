"""A new bag of n-grams is fitted before the body trains: logistic regression, or ridge regression of a value.

Both together are a mean of two models that err in different ways. Trained jointly from zeros, the bag would
overfit: its weights are many, and the penalty that they need is not the body's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from train.batching import pad
from train.data import Problem
from train.head_parts import NgramBag
from train.heads import problem_of, target_loss

STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)  # C of the regression, the inverse of its penalty
ITERATIONS = 100
TOLERANCE = 1e-3
MIN_ROWS = 2  # an n-gram of fewer training rows has no weight
# A token that every row has (the end of the text) is the intercept: a larger value has a smaller penalty.
INTERCEPT = 5
_CHUNK = 4096  # rows at once


def fit_bag(training: Any, rows: Sequence[Any], held_out: Sequence[Any]) -> str | None:
    """Fit the bag of a training that has a new one; `held_out` chooses the strength. A line about it.

    None where there is no bag, where it has weights, or where no n-gram is in two rows.
    """
    bag = getattr(training.module, "ngrams", None)
    if bag is None or bool(bag.weight.any()):
        return None
    ids, targets = training.for_bag(rows)
    shares, (asked, wanted) = _shares(bag, ids), training.for_bag(held_out)
    rows_of = np.asarray((shares > 0).sum(axis=0)).ravel()
    kept = np.flatnonzero(rows_of >= MIN_ROWS)
    if not len(kept):
        return None
    rarity = np.log((1 + len(ids)) / (1 + rows_of[kept])).astype(np.float32) + 1
    rarity[rows_of[kept] == len(ids)] *= INTERCEPT
    features, others = (each[:, kept] @ diags(rarity) for each in (shares, _shares(bag, asked)))
    problem = problem_of(training.module.config)
    best, least, chosen = None, np.inf, 0.0
    for strength in STRENGTHS:
        weights = _regression(features.tocsr(), targets.numpy(), problem, strength)
        loss = float(target_loss(torch.from_numpy(others @ weights), wanted, problem))
        if loss >= least:
            break
        best, least, chosen = weights, loss, strength
    if best is None:
        return None
    with torch.no_grad():
        bag.weight[torch.from_numpy(kept)] = torch.from_numpy(rarity[:, None] * best / 2).to(bag.weight)
    bag.fitted = True
    return f"n-grams: {len(kept):,} fitted with strength {chosen:g}, held-out loss {least:.4g}"


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


def _regression(
    features: csr_matrix, targets: NDArray[np.float32], problem: Problem, strength: float
) -> NDArray[np.float32]:
    """Weights [features, labels] without an intercept."""
    if problem is Problem.REGRESSION:
        ridge = Ridge(alpha=1 / strength, fit_intercept=False).fit(features, targets)
        return np.asarray(ridge.coef_.reshape(len(targets[0]), -1).T, np.float32)
    model = LogisticRegression(C=strength, fit_intercept=False, max_iter=ITERATIONS, tol=TOLERANCE)
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
