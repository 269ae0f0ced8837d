"""Checkpoints and artifacts give the same answers, which are those of torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from runtime.calibration import CALIBRATION_FILE, Calibration
from runtime.heads import HeadInput
from tests.train.evaluation.conftest import TEXTS
from train.evaluation.errors import EvaluationError
from train.evaluation.places import Options, open_target
from train.evaluation.target import HeadTarget, LanguageTarget
from train.evaluation.texts import ScoredText, score_texts
from train.language_model import negative_log_likelihood

Made = Callable[[str], tuple[Path, Path]]
OPTIONS = Options(threads=1)
DOCUMENTS = ["the little cat sat on the mat", " ".join(TEXTS * 8), "rain"]


def scored(folder: Path, window: int) -> list[ScoredText]:
    with open_target(str(folder), OPTIONS) as target:
        assert isinstance(target, LanguageTarget)
        assert target.context_length == 96
        return list(score_texts(target, DOCUMENTS, window))


@pytest.mark.parametrize("window", [17, 96])
def test_a_checkpoint_and_its_artifact_find_texts_as_likely_as_torch_does(made: Made, window: int) -> None:
    checkpoint, artifact = made("lm")
    model = GPT2LMHeadModel.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    documents = [tokenizer.encode(text).ids for text in DOCUMENTS]
    nats, count = negative_log_likelihood(model, documents, separator=0, window=window - 1)
    assert count == sum(map(len, documents)) > 2 * 96
    for place in (checkpoint, artifact):
        found = scored(place, window)
        assert [each.tokens for each in found] == list(map(len, documents))
        assert sum(each.nats for each in found) == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize("name", ["classifier", "multi", "regression", "reader", "nlu", "tagger"])
def test_a_checkpoint_and_its_artifact_answer_alike(made: Made, name: str) -> None:
    answers = []
    for folder in made(name):
        with open_target(str(folder), OPTIONS) as target:
            assert isinstance(target, HeadTarget)
            answers.append(target.answers([HeadInput(text) for text in TEXTS]))
    for first, second in zip(*answers, strict=True):
        np.testing.assert_allclose(first.scores, second.scores, atol=1e-4)
        assert first.label == second.label
        assert (first.slots is None) == (second.slots is None) == (name not in ("nlu", "tagger"))
        for one, other in zip(first.slots or [], second.slots or [], strict=True):
            assert (one.name, one.start, one.end) == (other.name, other.start, other.end)


def test_an_artifact_has_its_calibration(made: Made) -> None:
    _, artifact = made("classifier")
    inputs = [HeadInput(text) for text in TEXTS]
    with open_target(str(artifact), OPTIONS) as target:
        assert isinstance(target, HeadTarget)
        plain = np.stack([each.scores for each in target.answers(inputs)])
    (artifact / CALIBRATION_FILE).write_text(Calibration(2.0, 0.5).to_json())
    try:
        with open_target(str(artifact), OPTIONS) as target:
            assert isinstance(target, HeadTarget)
            assert target.about.threshold == 0.5
            corrected = np.stack([each.scores for each in target.answers(inputs)])
        with open_target(str(artifact), Options(threads=1, raw_scores=True)) as target:
            assert isinstance(target, HeadTarget)
            raw = np.stack([each.scores for each in target.answers(inputs)])
    finally:
        (artifact / CALIBRATION_FILE).unlink()
    np.testing.assert_array_equal(raw, plain)
    roots = np.sqrt(plain)
    np.testing.assert_allclose(corrected, roots / roots.sum(axis=1, keepdims=True), rtol=1e-4)


def test_a_text_that_is_too_long_is_named(made: Made) -> None:
    with open_target(str(made("classifier")[1]), OPTIONS) as target:
        assert isinstance(target, HeadTarget)
        with pytest.raises(EvaluationError, match="this model reads at most 96"):
            target.answers([HeadInput("cat " * 400)])


def test_a_folder_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="neither"), open_target(str(tmp_path), OPTIONS):
        pass


def test_a_precision_that_is_not_there(made: Made) -> None:
    options = Options(precision="int8", threads=1)
    with pytest.raises(EvaluationError, match="it has fp32"), open_target(str(made("lm")[1]), options):
        pass


def test_what_is_measured_of_this_process(made: Made) -> None:
    with open_target(str(made("classifier")[1]), OPTIONS) as target:
        used = target.usage()
        assert used.cpu_seconds is not None
        assert used.cpu_seconds > 0
        assert used.memory is not None
        assert target.about.size is not None
        assert math.isfinite(used.memory)
