"""Quality cards: how far a variant's answers lie from fp32's, as plain numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from export.session import Floats


def language_card(texts: Iterable[tuple[Floats, Floats, Sequence[int]]]) -> dict[str, float]:
    """Compare text by text: logits `[tokens, vocab]` of both, and the token after each position."""
    surprise = change = divergence = largest = 0.0
    agreeing = count = 0
    for reference, variant, following in texts:
        expected, found = _log_softmax(reference), _log_softmax(variant)
        tokens = np.arange(len(following)), np.array(following)
        surprise -= float(expected[tokens].sum())
        change -= float((found[tokens] - expected[tokens]).sum())
        divergence += float((np.exp(expected) * (expected - found)).sum())
        agreeing += int((reference.argmax(axis=1) == variant.argmax(axis=1)).sum())
        largest = max(largest, float(np.abs(reference - variant).max()))
        count += len(following)
    return _floats(
        perplexity=np.exp(surprise / count),
        perplexity_change=np.expm1(change / count),
        mean_kl=divergence / count,
        top1_agreement=agreeing / count,
        max_logit_difference=largest,
    )


def head_card(
    reference: tuple[Floats, Floats | None],
    variant: tuple[Floats, Floats | None],
    lengths: list[int],
    kind: str,
) -> dict[str, float]:
    """Compare label logits, and slot logits `[texts, longest, slots]` over each text's own tokens.

    `kind` is the problem type, which turns logits into probabilities; a regression shifts by its value.
    """
    card: dict[str, float] = {}
    labels, found = reference[0], variant[0]
    if labels.shape[1]:
        card["max_probability_shift"] = np.abs(
            _probabilities(labels, kind) - _probabilities(found, kind)
        ).max()
        if kind == "single_label_classification":
            card["label_agreement"] = np.mean(labels.argmax(axis=1) == found.argmax(axis=1))
        elif kind == "multi_label_classification":
            card["label_agreement"] = np.mean((labels > 0) == (found > 0))
    if reference[1] is not None and variant[1] is not None:
        own = np.arange(reference[1].shape[1]) < np.array(lengths)[:, None]
        slots, found_slots = reference[1][own], variant[1][own]
        card["slot_agreement"] = np.mean(slots.argmax(axis=1) == found_slots.argmax(axis=1))
        shift = np.exp(_log_softmax(slots)) - np.exp(_log_softmax(found_slots))
        card["max_slot_probability_shift"] = np.abs(shift).max()
    return _floats(**card)


def _probabilities(logits: Floats, kind: str) -> Floats:
    if kind == "regression":
        return logits
    if kind == "multi_label_classification":
        return np.asarray(np.exp(-np.logaddexp(0, -logits)), np.float32)
    return np.asarray(np.exp(_log_softmax(logits)), np.float32)


def _log_softmax(logits: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _floats(**values: float) -> dict[str, float]:
    """Six significant digits: enough to judge by, and the same on every machine but the last bit."""
    return {name: float(f"{float(value):.6g}") for name, value in values.items()}
