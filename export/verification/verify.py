"""Verification of an export: the fp32 graph and independent models answer the same tokens.

    rows = verify(checkpoint, artifact)
    require_passed(rows)

The graph runs first and is closed; then the references run, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from export.archive import ARTIFACT_MARK
from export.checkpoint.config import Head, ModelConfig, read_config
from export.errors import ExportError
from export.progress import OnProgress, Report, Stages, ignore
from export.session import Floats
from export.verification.answers import Answer, head_answers, language_answers
from export.verification.oracles import NumpyOracle, OptimumOracle, Oracle, TransformersOracle, Unavailable
from runtime.contract import GRAPH_FILE, Variant
from runtime.manifest import Manifest

# The largest difference between two logits that counts as rounding. Logits of trained models reach -100 and
# beyond, where float32 has coarser steps: above LARGE the limit grows in proportion.
LIMIT = 2e-4
LARGE = 32.0
PROMPTS = 50
GREEDY_TOKENS = 64
COLUMNS = ("reference", "max logit difference", "same answers", "note")

# Called with the folders of checkpoint and artifact; returns a line for the provenance, raises ExportError.
Verify = Callable[[Path, Path], str]
_References = type[TransformersOracle] | type[OptimumOracle] | type[NumpyOracle]


@dataclass(frozen=True, slots=True)
class Verification:
    """The fp32 graph compared with one reference; without a run `texts` is 0, and `note` gives the reason.

    A text agrees if every choice is the same: each greedy token of a language model, each label of a head.
    It is tied if choices differ only where the reference's two logits differ by less than the limit.
    """

    reference: str
    texts: int = 0
    agreeing: int = 0
    tied: int = 0
    max_logit_difference: float = 0.0
    limit: float = LIMIT
    note: str = ""

    @property
    def ran(self) -> bool:
        return self.texts > 0

    @property
    def passed(self) -> bool:
        same = self.agreeing + self.tied == self.texts
        return self.ran and same and self.max_logit_difference <= self.limit

    @property
    def figures(self) -> tuple[str, str]:
        """The largest difference, and how many answers are the same."""
        return (
            (f"{self.max_logit_difference:.1e}", f"{self.agreeing}/{self.texts}") if self.ran else ("-", "-")
        )

    @property
    def remark(self) -> str:
        return f"{self.tied} tied: logits less than {self.limit:.2g} apart" if self.tied else self.note

    @property
    def sentence(self) -> str:
        difference, same = self.figures
        parts = [f"max logit difference {difference}", f"same answers {same}"] if self.ran else []
        return f"{self.reference}: {', '.join([*parts, *filter(None, [self.remark])])}"


def verify(
    checkpoint_folder: Path,
    artifact: Path,
    *,
    prompts: int = PROMPTS,
    tokens: int = GREEDY_TOKENS,
    report: Report = ignore,
) -> list[Verification]:
    """Compare fp32 with transformers and optimum; if one of them cannot run, also with the NumPy GPT-2.

    A language model continues `prompts` prompts by `tokens` greedy tokens; a head labels as many texts.
    Raises ExportError (field `verify`) if there is nothing to compare; differences are in the rows.
    """
    if (checkpoint_folder / ARTIFACT_MARK).is_file():
        raise _refused("the source is an artifact, and there is no checkpoint to compare it with")
    manifest = Manifest.load(artifact)
    check_verifiable(manifest.variants)
    config = read_config(checkpoint_folder)
    _check_match(manifest, config)
    references: tuple[_References, ...] = (TransformersOracle, OptimumOracle, NumpyOracle)
    stages = Stages(["answer", *(f"compare with {reference.name}" for reference in references)], report)
    stages.begin("answer")
    rows: list[Verification] = []
    with TemporaryFile() as scratch:
        graph, on_progress = artifact / Variant.FP32.value / GRAPH_FILE, stages.step
        if config.head is Head.LM:
            answers = language_answers(graph, manifest.architecture, prompts, tokens, scratch, on_progress)
        else:
            answers = head_answers(graph, config, prompts, on_progress)
        for reference in references:
            stages.begin(f"compare with {reference.name}")
            if reference is NumpyOracle and all(row.ran for row in rows):
                rows.append(
                    Verification(reference.name, note="not run: it stands in for one that is missing")
                )
            else:
                rows.append(_run(reference, checkpoint_folder, config, answers, on_progress))
    stages.end()
    return rows


def check_verifiable(variants: Collection[Variant]) -> None:
    """Raises ExportError for variants that cannot be verified, before they are exported."""
    if Variant.FP32 not in variants:
        raise _refused("only fp32 is compared with other models: add it to the variants")


def require_passed(rows: Sequence[Verification]) -> None:
    """Raises ExportError (field `verify`) with the first reference from which fp32 differs."""
    for row in rows:
        if row.ran and not row.passed:
            raise _refused(
                f"fp32 differs from {row.reference}: by up to {row.max_logit_difference:.3g} in a logit"
                f" (limit {row.limit:.3g}); {row.agreeing + row.tied} of {row.texts} answers are the same"
            )


def verification_rows(rows: Iterable[Verification]) -> list[tuple[str, ...]]:
    """The cells of a table under COLUMNS."""
    return [(row.reference, *row.figures, row.remark) for row in rows]


def verification_summary(rows: Iterable[Verification]) -> str:
    """One line for an artifact's provenance."""
    return "; ".join(row.sentence for row in rows if row.ran)


def _run(
    reference: _References,
    folder: Path,
    config: ModelConfig,
    answers: Sequence[Answer],
    on_progress: OnProgress,
) -> Verification:
    try:
        return compare(reference(folder, config), answers, config, on_progress)
    except ImportError as error:
        missing = f"{error.name} is not installed" if error.name else str(error)
        return Verification(reference.name, note=f"not run: {missing}")
    except Unavailable as error:
        return Verification(reference.name, note=f"not run: {error}")


def compare(
    oracle: Oracle, answers: Sequence[Answer], config: ModelConfig, on_progress: OnProgress
) -> Verification:
    """Compare the answers with those of one reference."""
    agreeing = tied = 0
    largest, limit = np.float64(0), LIMIT
    for number, answer in enumerate(answers, start=1):
        leads = [-np.inf]
        for found, expected in zip(answer.logits, oracle.logits(answer.ids), strict=True):
            # Greedy answers are compared without generating them again. The reference reads the prompt and
            # the graph's tokens in one pass. If it would choose the same token at each position, then by
            # induction its own greedy answer is that of the graph.
            expected = expected[-len(found) :]
            allowed = LIMIT * max(1.0, float(np.abs(expected).max()) / LARGE)
            largest = np.maximum(largest, np.abs(found - expected).max())  # unlike max(), propagates NaN
            limit = max(limit, allowed)
            leads.append(_lead(_choices(found, config), _choices(expected, config)) / allowed)
        lead = float(np.max(leads))
        agreeing += lead == -np.inf
        tied += -np.inf < lead < 1
        on_progress(number / len(answers))
    return Verification(oracle.title, len(answers), agreeing, tied, float(largest), limit)


def _lead(found: Floats, expected: Floats) -> float:
    """The most by which the reference prefers its own choice where choices differ; -infinity if none do."""
    chosen = found.argmax(axis=-1)
    differs = chosen != expected.argmax(axis=-1)
    lead = expected.max(axis=-1) - np.take_along_axis(expected, chosen[:, None], axis=-1)[:, 0]
    return float(lead[differs].max(initial=-np.inf))


def _choices(logits: Floats, config: ModelConfig) -> Floats:
    """Logits as choices between columns: `[choices, columns]`."""
    if logits.ndim == 2:
        return logits
    if config.problem_type == "multi_label_classification":
        return np.stack([np.zeros_like(logits), logits], axis=-1)  # a label is given above 0
    # A regression chooses nothing.
    return logits[:, None] if config.problem_type == "regression" else logits[None]


def _check_match(manifest: Manifest, config: ModelConfig) -> None:
    for what, exported, given in (
        ("kind", manifest.kind, config.head.kind),
        ("number of layers", manifest.architecture.num_layers, config.num_layers),
        ("number of heads", manifest.architecture.heads, config.layer_heads),
        ("hidden size", manifest.architecture.hidden_size, config.hidden_size),
        ("vocabulary", manifest.architecture.vocab_size, config.vocab_size),
        ("context length", manifest.architecture.context_length, config.context_length),
        ("labels", manifest.labels, config.labels),
        ("slot labels", manifest.slot_labels, config.slot_labels),
        ("transitions of slots", manifest.slot_transitions, config.slot_transitions),
    ):
        if exported != given:
            raise _refused(f"the artifact is not of this checkpoint: the {what} differs")


def _refused(message: str) -> ExportError:
    return ExportError(f"verify: {message}", field="verify")
