"""An artifact: what `lmaas export` writes, run by the engine in this process."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from runtime.calibration import CALIBRATION_FILE, Calibration
from runtime.config import EngineConfig
from runtime.contract import TOKENIZER_FILE, Fault, Kind, Variant
from runtime.engine import Engine
from runtime.errors import RequestFault
from runtime.heads import HeadAnswer, HeadInput, HeadModel
from runtime.load import load_engine
from runtime.manifest import Manifest
from runtime.messages import Answer, Generated
from runtime.request import Request
from runtime.sampling import SamplingParameters
from runtime.text import open_tokenizer
from train.evaluation.errors import EvaluationError
from train.evaluation.process import ProcessMeter
from train.evaluation.target import Description, Floats, HeadTarget, LanguageTarget, Target, Usage

SECONDS = 600.0  # for the slowest answer of the engine


@contextmanager
def open_artifact(
    folder: Path, precision: str | None, threads: int, *, raw_scores: bool = False
) -> Iterator[Target]:
    """Raises EvaluationError, ModelError. `precision` None: fp32. `raw_scores`: without its calibration."""
    manifest = Manifest.load(folder)
    variant = Variant(precision or Variant.FP32.value)
    if variant not in manifest.variants:
        known = ", ".join(each.value for each in manifest.variants)
        raise EvaluationError(f"{folder}: has no {variant.value}; it has {known}")
    about = Description(
        str(folder),
        "artifact",
        manifest.kind,
        manifest.problem_type,
        manifest.labels,
        variant.value,
        size=manifest.variants[variant].size,
    )
    meter = ProcessMeter()
    if manifest.kind is not Kind.LM:
        calibration = None if raw_scores else read_calibration(folder)
        if calibration is not None:
            about = replace(about, threshold=calibration.threshold)
        temperature = 1.0 if calibration is None else calibration.temperature
        yield LocalHead(about, HeadModel.load(folder, variant, threads), meter, temperature)
        return
    engine = load_engine(
        folder, config=EngineConfig(variant, threads=threads, num_slots=LanguageTarget.batch)
    )
    try:
        yield ArtifactLanguage(about, engine, folder, meter)
    finally:
        engine.close()


class LocalHead(HeadTarget):
    """A head that runs in this process."""

    def __init__(
        self, about: Description, model: HeadModel, meter: ProcessMeter, temperature: float = 1.0
    ) -> None:
        self.about = about
        self._model = model
        self._meter = meter
        self._temperature = temperature

    def answers(self, inputs: Sequence[HeadInput]) -> list[HeadAnswer]:
        found = []
        asked = [replace(item, temperature=self._temperature) for item in inputs]
        for item, answer in zip(asked, self._model.run(asked), strict=True):
            if isinstance(answer, RequestFault):
                raise EvaluationError(f"{item.text[:60]!r}: {answer.fault.field}: {answer.fault.message}")
            found.append(answer)
        return found

    def usage(self) -> Usage:
        return self._meter.usage()


class ArtifactLanguage(LanguageTarget):
    def __init__(self, about: Description, engine: Engine, folder: Path, meter: ProcessMeter) -> None:
        self.about = about
        self._engine = engine
        self._meter = meter
        self._numbers = itertools.count()
        self.tokenizer = open_tokenizer(folder / TOKENIZER_FILE)
        self.context_length = engine.manifest.architecture.context_length
        self.separator = required_separator(about.name, engine.manifest.architecture.eos_token_id)

    def logprobs(self, rows: Sequence[Sequence[int]]) -> list[Floats]:
        asked = [_Asked() for _ in rows]
        parameters = SamplingParameters(max_tokens=0, echo=True, logprobs=0)
        for row, sink in zip(rows, asked, strict=True):
            name = f"evaluate-{next(self._numbers)}"
            self._engine.submit(Request(name, "", parameters=parameters, token_ids=tuple(row)), sink)
        return [sink.logprobs() for sink in asked]

    def usage(self) -> Usage:
        return self._meter.usage()


def read_calibration(folder: Path) -> Calibration | None:
    """What corrects an artifact's scores, where it has it. Raises CalibrationError."""
    file = folder / CALIBRATION_FILE
    return Calibration.from_json(file.read_bytes()) if file.is_file() else None


class _Asked:
    """The sink of one request."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._answer: Answer | None = None
        self._fault: Fault | None = None

    def send(self, answer: Answer, *, final: bool) -> None:
        self._answer = answer
        self._over.set()

    def fail(self, fault: Fault) -> None:
        self._fault = fault
        self._over.set()

    def logprobs(self) -> Floats:
        if not self._over.wait(SECONDS):
            raise EvaluationError(f"the engine gave no answer in {SECONDS:.0f} s")
        if self._fault is not None or not isinstance(self._answer, Generated):
            raise EvaluationError(f"the engine: {self._fault.message if self._fault else 'no answer'}")
        listed = self._answer.choices[0].logprobs or []
        return np.array([token.logprob for token in listed[1:]], np.float64)


def required_separator(name: str, eos_token_id: int | None) -> int:
    """The token that stood before each text in training."""
    if eos_token_id is None:
        raise EvaluationError(f"{name}: has no end-of-text token, after which a text could begin")
    return eos_token_id
