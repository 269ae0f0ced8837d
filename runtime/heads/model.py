"""Models of kinds `classifier` and `nlu`: they answer a batch of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers
from numpy.typing import NDArray

from runtime.contract import TOKENIZER_FILE, FaultCode, HeadGraph, Kind, Variant
from runtime.cuda.accelerator import Accelerator
from runtime.errors import ModelError, RequestFault
from runtime.golden_rules import score_problem, transitions_problem
from runtime.heads.reader import HeadInput, Reader, Row
from runtime.heads.slots import TagRules, merge_tags, split_words
from runtime.manifest import MANIFEST_FILE, Manifest, ManifestError
from runtime.messages import Slot
from runtime.sampling import log_softmax
from runtime.session import open_session
from runtime.text import open_tokenizer

Floats = NDArray[np.float32]

RUN_TOKENS = 64  # estimate: computing them takes as long as the fixed cost of a run of the graph
# With padding. It bounds memory, and the time of a run, in which the head reports no progress.
MOST_RUN_TOKENS = 2560


@dataclass(frozen=True, slots=True, eq=False)
class HeadAnswer:
    """`scores` `[labels] float32`: probabilities, or values of a regression; empty without labels.

    `slots` is None for a classifier, else the spans that the model names.
    """

    scores: Floats
    label: str  # of the highest score; "" without scores
    slots: list[Slot] | None


def softmax(logits: Floats) -> Floats:
    probabilities: Floats = np.exp(log_softmax(logits))
    return probabilities


def sigmoid(logits: Floats) -> Floats:
    probabilities: Floats = np.exp(-np.logaddexp(np.float32(0), -logits))
    return probabilities


# As transformers' text-classification pipeline chooses by `problem_type`.
_SCORES: dict[str, Callable[[Floats], Floats]] = {
    "single_label_classification": softmax,
    "multi_label_classification": sigmoid,
    "regression": np.asarray,
}


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """Group rows of these lengths into runs, longest first, so that padding costs less than another run.

    A new run starts where it saves more tokens of padding than a run costs, and where a run would have more
    than MOST_RUN_TOKENS.
    """
    places = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    found: list[list[int]] = []
    longest = 0
    for order, place in enumerate(places):
        spared = (longest - lengths[place]) * (len(places) - order)
        if not found or spared > RUN_TOKENS or (len(found[-1]) + 1) * longest > MOST_RUN_TOKENS:
            found.append([])
            longest = lengths[place]
        found[-1].append(place)
    return found


class HeadModel:
    """One loaded version. `run` may be called from one thread at a time."""

    def __init__(
        self, manifest: Manifest, tokenizer: tokenizers.Tokenizer, session: onnxruntime.InferenceSession
    ) -> None:
        if manifest.kind not in (Kind.CLASSIFIER, Kind.NLU):
            raise ModelError(f"{MANIFEST_FILE}: kind {manifest.kind.value} has no head")
        if manifest.problem_type not in _SCORES:
            raise ModelError(f"{MANIFEST_FILE}: problem_type {manifest.problem_type!r} is not known")
        self.manifest = manifest
        self._reader = Reader(manifest, tokenizer)
        self._session = session
        self._outputs = [HeadGraph.LOGITS]
        if manifest.kind is Kind.NLU:
            self._outputs.append(HeadGraph.SLOT_LOGITS)
        # A head of slots alone may have learned tags of another scheme, in which I-x can begin a slot.
        self._rules = TagRules(manifest.slot_labels if manifest.labels else (), self._transitions())

    @classmethod
    def load(
        cls, folder: Path, variant: Variant, threads: int, accelerator: Accelerator | None = None
    ) -> HeadModel:
        """Load an artifact or a version folder and replay its golden prompts; raises ModelError."""
        try:
            manifest = Manifest.load(folder)
        except (OSError, ManifestError) as error:
            raise ModelError(f"{MANIFEST_FILE}: {error}") from None
        if variant not in manifest.variants:
            known = ", ".join(item.value for item in manifest.variants)
            raise ModelError(f"{MANIFEST_FILE}: variant {variant.value} is not among {known}")
        graph = folder / manifest.variants[variant].graph.path
        session = open_session(graph, threads, accelerator)
        model = cls(manifest, open_tokenizer(folder / TOKENIZER_FILE), session)
        model._check_golden(variant)
        return model

    def run(
        self, inputs: Sequence[HeadInput], after_run: Callable[[], None] = lambda: None
    ) -> list[HeadAnswer | RequestFault]:
        """Answer all inputs; an input that cannot be answered gets a fault instead.

        `after_run` is called after each run of the graph.
        """
        rows = self._reader.read(inputs)
        good = [row for row in rows if isinstance(row, Row)]
        answered: dict[int, HeadAnswer | RequestFault] = {}
        for places in batches([len(row.ids) for row in good]):
            answered.update(zip(places, self._answers([good[place] for place in places]), strict=True))
            after_run()
        answers = (answered[place] for place in range(len(good)))
        return [row if isinstance(row, RequestFault) else next(answers) for row in rows]

    def _transitions(self) -> Floats | None:
        """The scores of each tag after each other one, where the graph gives some; raises ModelError."""
        if not self.manifest.slot_transitions:
            return None
        # They are the same for every input.
        one_token = {
            HeadGraph.INPUT_IDS: np.zeros((1, 1), np.int64),
            HeadGraph.LENGTHS: np.ones(1, np.int64),
        }
        found: Floats
        (found,) = self._session.run([HeadGraph.SLOT_TRANSITIONS], one_token)
        problem = transitions_problem(found.shape, found.min(), found.max(), len(self.manifest.slot_labels))
        if problem is not None:
            raise ModelError(f"{HeadGraph.SLOT_TRANSITIONS}: {problem}")
        return found

    def _answers(self, rows: Sequence[Row]) -> Iterator[HeadAnswer | RequestFault]:
        """Answer rows with one run of the graph."""
        logits, slot_logits = self._logits(rows)
        finite = np.isfinite(logits).all(axis=1)
        if slot_logits is not None:
            # Results at padding are not used.
            finite &= [bool(np.isfinite(tagged).all()) for tagged in slot_logits]
        temperatures = np.array([[row.temperature] for row in rows], np.float32)
        scores = self._scores(logits / temperatures)
        best = scores.argmax(axis=1).tolist() if scores.shape[1] else None
        for place, row in enumerate(rows):
            if not finite[place]:
                yield RequestFault.of(FaultCode.INTERNAL, "the model's logits are not finite numbers")
                continue
            label = self.manifest.labels[best[place]] if best else ""
            slots = None if slot_logits is None else self._slots(row, slot_logits[place])
            yield HeadAnswer(scores[place], label, slots)

    def _logits(self, rows: Sequence[Row]) -> tuple[Floats, list[Floats] | None]:
        """`[rows, labels]`, and for each row `[tokens, slot_labels]` where the model tags slots."""
        lengths = np.array([len(row.ids) for row in rows], np.int64)
        # Padded with any token: nothing after a row's length is read.
        ids = np.zeros((len(rows), int(lengths.max())), np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row.ids)] = row.ids
        logits, *slot_logits = self._session.run(
            self._outputs, {HeadGraph.INPUT_IDS: ids, HeadGraph.LENGTHS: lengths}
        )
        if not slot_logits:
            return logits, None
        return logits, [slot_logits[0][place, : len(row.ids)] for place, row in enumerate(rows)]

    def _scores(self, logits: Floats) -> Floats:
        """Over the last axis."""
        return _SCORES[self.manifest.problem_type](logits) if logits.shape[-1] else logits

    def _slots(self, row: Row, slot_logits: Floats) -> list[Slot]:
        words = split_words(row.text, row.encoding)
        tagged = log_softmax(slot_logits[[row.tagged_from + word.token for word in words]])
        path = self._rules.best_path(tagged)
        tags = [self.manifest.slot_labels[index] for index in path]
        scores = np.exp(tagged[np.arange(len(path)), path])
        return merge_tags(row.text, words, tags, scores.tolist())

    def _check_golden(self, variant: Variant) -> None:
        """Raise ModelError if the model does not give the manifest's golden answers."""
        expected = self.manifest.variants[variant].golden
        for prompt, answer in zip(self.manifest.golden, expected, strict=True):
            where = f"{variant.value}: golden prompt {prompt.text!r}"
            (row,) = self._reader.read([HeadInput(prompt.text, prompt.text_pair)])
            if isinstance(row, RequestFault):
                raise ModelError(f"{where}: {row}")
            (labels,), slots = self._logits([row])
            _compare(where, "label", self._scores, answer.scores, labels)
            if slots is not None:
                _compare(where, "slot", softmax, answer.slot_scores, slots[0][-1])


def _compare(
    where: str, what: str, scale: Callable[[Floats], Floats], expected: tuple[float, ...], found: Floats
) -> None:
    """Compare logits as the scores that callers see; raises ModelError."""
    wanted = scale(np.array(expected, np.float32)) if expected else np.empty(0, np.float32)
    given = scale(found) if len(found) else found
    problem = score_problem(what, wanted.tolist(), given.tolist())
    if problem is not None:
        raise ModelError(f"{where}: {problem}")
