"""Quality cards: how far a variant's answers are from fp32's, as plain numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from export.session import Floats, log_softmax

_BLOCK = 16  # positions that are compared at once: logits in float64 take much memory
Card = dict[str, float]


def language_card(
    texts: Iterable[tuple[Floats, Floats, Sequence[int]]], agreements: Sequence[int], greedy_tokens: int
) -> Card:
    """Compare text by text: logits `[tokens, vocab]` of both, and the token after each position.

    `agreements` are the lengths for which greedy answers of `greedy_tokens` tokens are the same.
    """
    surprise = change = divergence = largest = 0.0
    agreeing = count = 0
    for reference, variant, following in texts:
        for start in range(0, len(following), _BLOCK):
            part = slice(start, start + _BLOCK)
            expected, found = log_softmax(reference[part]), log_softmax(variant[part])
            tokens = np.arange(len(expected)), np.array(following[part])
            surprise -= float(expected[tokens].sum())
            change -= float((found[tokens] - expected[tokens]).sum())
            divergence += float((np.exp(expected) * (expected - found)).sum())
            agreeing += int((reference[part].argmax(axis=1) == variant[part].argmax(axis=1)).sum())
            largest = max(largest, float(np.abs(_centered(reference[part]) - _centered(variant[part])).max()))
        count += len(following)
    return _floats(
        perplexity=np.exp(surprise / count),
        perplexity_change=np.expm1(change / count),
        mean_kl=divergence / count,
        top1_agreement=agreeing / count,
        greedy_agreement=float(np.mean(agreements)),
        greedy_tokens=greedy_tokens,
        max_logit_difference=largest,
        tokens=count,
    )


def agreement_length(logits: Floats, answer: Sequence[int]) -> int:
    """The number of leading tokens of `answer` that a model chooses too, by its `logits` before each token.

    By induction, its own greedy answer differs from `answer` after that many tokens.
    """
    differs = np.flatnonzero(logits.argmax(axis=1) != np.array(answer))
    return int(differs[0]) if len(differs) else len(answer)


def head_card(
    texts: Iterable[tuple[tuple[Floats, Floats | None], tuple[Floats, Floats | None]]], kind: str
) -> Card:
    """Compare both answers to each text: label logits `[labels]`, slot logits `[tokens, slots]` or None.

    `kind` is the problem type, by which logits become probabilities; for a regression the value is compared.
    """
    answers = list(texts)
    card: Card = {"texts": len(answers)}
    labels = np.stack([reference[0] for reference, _ in answers])
    found = np.stack([variant[0] for _, variant in answers])
    if labels.shape[1]:
        shift = np.abs(probabilities(labels, kind) - probabilities(found, kind))
        card |= {"max_probability_shift": shift.max(), "mean_probability_shift": shift.mean()}
        if kind == "single_label_classification":
            chosen, other = labels.argmax(axis=1), found.argmax(axis=1)
            card |= {"label_agreement": np.mean(chosen == other), "label_f1": macro_f1(chosen, other)}
        elif kind == "multi_label_classification":
            chosen, other = _marked(labels), _marked(found)
            card |= {
                "label_agreement": np.mean((labels > 0) == (found > 0)),
                "label_f1": macro_f1(chosen, other),
            }
    slots = [reference[1] for reference, _ in answers if reference[1] is not None]
    if slots:
        expected = np.concatenate(slots)
        tagged = np.concatenate([variant[1] for _, variant in answers if variant[1] is not None])
        chosen, other = expected.argmax(axis=1), tagged.argmax(axis=1)
        shift = np.abs(np.exp(log_softmax(expected)) - np.exp(log_softmax(tagged)))
        card |= {
            "slot_agreement": np.mean(chosen == other),
            "slot_f1": macro_f1(chosen, other),
            "max_slot_probability_shift": shift.max(),
        }
    return _floats(**card)


def macro_f1(expected: NDArray[np.int64], found: NDArray[np.int64]) -> float:
    """Mean of 2 * right / (expected + found) over all labels that occur; -1 is no label."""
    names = np.union1d(expected, found)
    scores = [
        2 * np.sum((expected == name) & (found == name)) / (np.sum(expected == name) + np.sum(found == name))
        for name in names[names >= 0]
    ]
    return float(np.mean(scores)) if scores else 1.0


def _marked(logits: Floats) -> NDArray[np.int64]:
    """`[texts * labels]`: the label where the text has it, else -1."""
    return np.where(logits > 0, np.arange(logits.shape[1]), -1).reshape(-1)


def _centered(logits: Floats) -> Floats:
    """Logits less their mean: softmax ignores a constant in a row, and variants differ in that constant."""
    return np.subtract(logits, logits.mean(axis=1, keepdims=True))


def probabilities(logits: Floats, kind: str) -> Floats:
    """The scores that callers see for these logits; `kind` is the problem type."""
    if kind == "regression":
        return logits
    if kind == "multi_label_classification":
        return np.asarray(np.exp(-np.logaddexp(0, -logits)), np.float32)
    return np.asarray(np.exp(log_softmax(logits)), np.float32)


def _floats(**values: float) -> Card:
    """Rounded to six significant digits: enough for a judgement, and nearly the same on every machine."""
    return {name: float(f"{float(value):.6g}") for name, value in values.items()}
