"""When a golden answer counts as reproduced: one rule for the exporter's dry run and for a server's start.

Each variant is compared with what it answered when it was exported. A corrupt file, a wrong provider or a
defective build is off by far more than these tolerances. Standard library only, because exporter and engine
both import this module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from runtime.contract import Variant

# How far a log-probability may be from the exporter's, in nats: processors round differently, and a value
# with few quantization steps moves by whole steps. fp16 is exported on a CPU and answers on a GPU.
TOLERANCE = {Variant.FP32: 0.01, Variant.FP16: 0.1, Variant.INT8: 0.1, Variant.INT4: 0.1}
LISTED = 5  # likeliest tokens, among which the manifest's token must be
MAX_TRANSITION = 10_000.0  # of a slot label after another one: sums of such scores are far from infinity
SCORE_TOLERANCE = 0.02  # of a probability, or relative to the largest value of a regression above 1


def token_problem(
    variant: Variant, token: int, logprob: float, *, chosen: int, found: float | None
) -> str | None:
    """What is wrong with one token of a golden answer; None where it is reproduced.

    The manifest says `token` with the log-probability `logprob`. `chosen` is the likeliest token now, and
    `found` the log-probability of `token` now, None where it is not among the LISTED likeliest.
    """
    if found is None:
        return f"is {chosen}, but the manifest says {token}, which is not among the {LISTED} likeliest"
    allowed = TOLERANCE[variant]
    if abs(found - logprob) <= allowed:  # false for NaN
        return None
    return (
        f"has the log-probability {found:.4f}, but the manifest says {logprob:.4f}, and at most {allowed} may"
        " lie between"
    )


def score_problem(what: str, expected: Sequence[float], found: Sequence[float]) -> str | None:
    """What is wrong with the scores of a head; None where they are reproduced.

    Scores are what callers see: probabilities, or the values of a regression. `what` is `label` or `slot`.
    """
    if len(expected) != len(found):
        return f"{len(found)} {what} scores, but {len(expected)} in the manifest"
    allowed = SCORE_TOLERANCE * max([1.0, *map(abs, expected)])
    shifts = [abs(one - other) for one, other in zip(expected, found, strict=True)]
    if all(shift <= allowed for shift in shifts):  # false for NaN
        return None
    shift = max(shifts, key=lambda shift: math.inf if math.isnan(shift) else shift)
    return f"a {what} score is off by {shift:.3g}, and at most {allowed:.3g} may lie between"


def transitions_problem(shape: Sequence[int], lowest: float, highest: float, labels: int) -> str | None:
    """What is wrong with the scores of each of `labels` slot labels after each other one; None where nothing.

    They have this shape, and lie between `lowest` and `highest`, either of which may be NaN.
    """
    if tuple(shape) != (labels + 1, labels):
        return f"the shape is {list(shape)}, but {[labels + 1, labels]} is needed"
    if not (lowest >= -MAX_TRANSITION and highest <= MAX_TRANSITION):
        return f"not all scores are numbers from {-MAX_TRANSITION:g} to {MAX_TRANSITION:g}"
    return None
