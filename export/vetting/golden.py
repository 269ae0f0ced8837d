"""The golden prompts of a ready-made artifact, answered again by its graphs on this machine's processor.

A variant is held to what its manifest says it answered, within the tolerances that a server has.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from export.checkpoint.tokenizer import open_tokenizer
from export.errors import ArtifactError
from export.quality.card import probabilities
from export.reading import quoted
from export.session import Floats, HeadSession, LanguageSession, log_softmax
from runtime.contract import GRAPH_FILE, TOKENIZER_FILE, GoldenPrompt, Kind, Manifest, Variant

# In nats; `runtime.golden` says why.
TOLERANCE = {Variant.FP32: 0.01, Variant.FP16: 0.1, Variant.INT8: 0.1, Variant.INT4: 0.1}
LISTED = 5  # likeliest tokens among which the manifest's must be
HEAD_TOLERANCE = 0.02  # of a probability, or of the largest value that a regression gives


def check_golden(folder: Path, variant: Variant, manifest: Manifest) -> None:
    """Raise ArtifactError where the graph of `variant` answers otherwise, or with anything but numbers.

    Beside the golden prompts it reads an end of text, as a manifest may have no prompts.
    """
    tokenizer = open_tokenizer(folder / TOKENIZER_FILE, manifest.architecture.vocab_size)
    graph = folder / variant.value / GRAPH_FILE
    if manifest.kind is Kind.LM:
        _check_language(graph, variant, manifest, tokenizer)
    else:
        _check_head(graph, variant, manifest, tokenizer)


def _check_language(graph: Path, variant: Variant, manifest: Manifest, tokenizer: Tokenizer) -> None:
    architecture = manifest.architecture
    answers = manifest.variants[variant].golden
    rows = [[architecture.eos_token_id]]
    rows += [tokenizer.encode(prompt.text, add_special_tokens=False).ids for prompt in manifest.golden]
    steps = max((len(answer.token_ids) for answer in answers), default=1)
    context = max(map(len, rows)) + steps - 1
    for prompt, row in zip(manifest.golden, rows[1:], strict=True):
        if not row or context > architecture.context_length:
            raise ArtifactError(
                f"{_where(prompt)}: {len(row)} tokens and {steps} more do not fit the context"
            )
    session = LanguageSession(graph, variant, architecture, len(rows), context)
    lengths = np.array([len(row) for row in rows], np.int64)
    tokens = np.zeros((len(rows), steps), np.int64)
    for place, answer in enumerate(answers, start=1):
        tokens[place] = answer.token_ids
    logits = session.prefill(rows)
    for step in range(steps):
        if step:
            # The manifest's token, not the likeliest: a tie may fall the other way, and another text follow.
            logits = session.decode(tokens[:, step - 1], lengths)
            lengths = lengths + 1
        _require_finite(logits)
        for prompt, answer, scores in zip(manifest.golden, answers, log_softmax(logits)[1:], strict=True):
            where = f"{_where(prompt)}: token {step + 1} of {steps}"
            _check_token(where, scores, answer.token_ids[step], answer.logprobs[step], TOLERANCE[variant])


def _check_token(where: str, scores: Floats, token: int, expected: float, allowed: float) -> None:
    """`scores` are log-probabilities `[vocab]`."""
    found = float(scores[token])
    if np.count_nonzero(scores > found) >= LISTED:
        raise ArtifactError(
            f"{where} is {int(scores.argmax())}, but the manifest says {token}, which is not among"
            f" the {LISTED} likeliest"
        )
    if abs(found - expected) > allowed:
        raise ArtifactError(
            f"{where} has the log-probability {found:.4f}, but the manifest says {expected:.4f}, and at most"
            f" {allowed} may lie between"
        )


def _check_head(graph: Path, variant: Variant, manifest: Manifest, tokenizer: Tokenizer) -> None:
    rows = [[manifest.architecture.eos_token_id]]
    for prompt in manifest.golden:
        rows.append(_head_token_ids(tokenizer, prompt, manifest))
        if not 0 < len(rows[-1]) <= manifest.architecture.context_length:
            raise ArtifactError(f"{_where(prompt)}: {len(rows[-1])} tokens do not fit the context")
    found = list(HeadSession(graph, variant).run(rows))
    for values in (values for pair in found for values in pair if values is not None):
        _require_finite(values)
    for prompt, answer, (labels, slots) in zip(
        manifest.golden, manifest.variants[variant].golden, found[1:], strict=True
    ):
        _compare(f"{_where(prompt)}: label", answer.scores, labels, manifest.problem_type)
        if slots is not None:
            _compare(f"{_where(prompt)}: slot", answer.slot_scores, slots[-1], "single_label_classification")


def _head_token_ids(tokenizer: Tokenizer, prompt: GoldenPrompt, manifest: Manifest) -> list[int]:
    """As `export.quality.texts.head_token_ids`, by the manifest where there is no config."""
    special = manifest.kind is Kind.CLASSIFIER
    encoding = tokenizer.encode(prompt.text, prompt.text_pair, add_special_tokens=special)
    if not ({0, 1} if prompt.text_pair else {0}) <= set(encoding.sequence_ids):
        return []  # the tokenizer's clean-up leaves nothing of a text
    ids: list[int] = encoding.ids
    return [*ids, manifest.architecture.eos_token_id, *ids] if manifest.nlu_echo and ids else ids


def _compare(where: str, expected: tuple[float, ...], found: Floats, kind: str) -> None:
    if len(expected) != len(found):
        raise ArtifactError(f"{where} scores: {len(found)}, but {len(expected)} in the manifest")
    if not expected:
        return
    wanted, given = probabilities(np.array(expected, np.float32), kind), probabilities(found, kind)
    allowed = HEAD_TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    shift = float(np.abs(wanted - given).max())
    if shift > allowed:
        raise ArtifactError(f"{where} score is off by {shift:.3g}, and at most {allowed:.3g} may lie between")


def _require_finite(values: Floats) -> None:
    if not np.isfinite(values).all():
        raise ArtifactError("the graph answers NaN or infinity")


def _where(prompt: GoldenPrompt) -> str:
    return f"golden prompt {quoted(prompt.text)}"
