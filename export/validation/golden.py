"""The golden prompts of a ready-made artifact, answered again by its graphs on this machine's processor.

Each answer is compared with the manifest's by the rules that a server uses (`runtime.golden_rules`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.checkpoint.prompts import PromptReader
from export.checkpoint.tokenizer import open_tokenizer
from export.errors import ArtifactError
from export.evaluation.card import probabilities
from export.session import Floats, HeadSession, LanguageSession, log_softmax
from runtime.contract import GRAPH_FILE, TOKENIZER_FILE, HeadGraph, Kind, Variant, shown
from runtime.golden_rules import LISTED, score_problem, token_problem, transitions_problem
from runtime.manifest import GoldenPrompt, Manifest


def check_golden(folder: Path, variant: Variant, manifest: Manifest) -> None:
    """Raise ArtifactError where the graph of `variant` gives other answers, NaN or infinity."""
    tokenizer = open_tokenizer(folder / TOKENIZER_FILE, manifest.architecture.vocab_size, manifest.kind)
    reader = PromptReader.of(tokenizer, manifest)
    rows = [reader.token_ids(prompt) for prompt in manifest.golden]
    for prompt, row in zip(manifest.golden, rows, strict=True):
        if not row:
            raise ArtifactError(
                f"{_where(prompt)}: the model cannot read it: it is empty, or longer than its context"
            )
    graph = folder / variant.value / GRAPH_FILE
    if manifest.kind is Kind.LM:
        _check_language(graph, variant, manifest, rows)
    else:
        _check_head(graph, variant, manifest, rows)


def _check_language(graph: Path, variant: Variant, manifest: Manifest, rows: list[list[int]]) -> None:
    architecture = manifest.architecture
    answers = manifest.variants[variant].golden
    steps = len(answers[0].token_ids)
    context = max(map(len, rows)) + steps - 1
    if context > architecture.context_length:
        prompt = max(zip(rows, manifest.golden, strict=True), key=lambda pair: len(pair[0]))[1]
        raise ArtifactError(f"{_where(prompt)}: {steps} more tokens do not fit the context")
    session = LanguageSession(graph, variant, architecture, len(rows), context)
    lengths = np.array([len(row) for row in rows], np.int64)
    tokens = np.zeros((len(rows), steps), np.int64)
    for place, answer in enumerate(answers):
        tokens[place] = answer.token_ids
    logits = session.prefill(rows)
    for step in range(steps):
        if step:
            # The manifest's token, not the likeliest one: after a tie another text could follow.
            logits = session.decode(tokens[:, step - 1], lengths)
            lengths = lengths + 1
        _require_finite(logits)
        for prompt, answer, scores in zip(manifest.golden, answers, log_softmax(logits), strict=True):
            token = answer.token_ids[step]
            chosen, found = int(scores.argmax()), _listed(scores, token)
            problem = token_problem(variant, token, answer.logprobs[step], chosen=chosen, found=found)
            if problem is not None:
                raise ArtifactError(f"{_where(prompt)}: token {step + 1} of {steps} {problem}")


def _listed(scores: Floats, token: int) -> float | None:
    """The log-probability of `token` in `scores` [vocab]; None where LISTED tokens are likelier."""
    found = float(scores[token])
    return found if np.count_nonzero(scores > found) < LISTED else None


def _check_head(graph: Path, variant: Variant, manifest: Manifest, rows: list[list[int]]) -> None:
    session = HeadSession(graph, variant)
    found = list(session.run(rows))
    for values in (values for pair in found for values in pair if values is not None):
        _require_finite(values)
    if manifest.slot_transitions:
        table = session.slot_transitions()
        problem = transitions_problem(table.shape, table.min(), table.max(), len(manifest.slot_labels))
        if problem is not None:
            raise ArtifactError(f"{HeadGraph.SLOT_TRANSITIONS}: {problem}")
    for prompt, answer, (labels, slots) in zip(
        manifest.golden, manifest.variants[variant].golden, found, strict=True
    ):
        _compare(_where(prompt), "label", answer.scores, labels, manifest.problem_type)
        if slots is not None:
            _compare(_where(prompt), "slot", answer.slot_scores, slots[-1], "single_label_classification")


def _compare(where: str, what: str, expected: tuple[float, ...], found: Floats, kind: str) -> None:
    wanted = probabilities(np.array(expected, np.float32), kind) if expected else np.empty(0, np.float32)
    given = probabilities(found, kind) if len(found) else found
    problem = score_problem(what, wanted.tolist(), given.tolist())
    if problem is not None:
        raise ArtifactError(f"{where}: {problem}")


def _require_finite(values: Floats) -> None:
    if not np.isfinite(values).all():
        raise ArtifactError("the graph answers NaN or infinity")


def _where(prompt: GoldenPrompt) -> str:
    return f"golden prompt {shown(prompt.text)}"
