"""The head graphs against torch and against the NumPy oracle, over rows padded on the right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import GPT2ForSequenceClassification, GPT2ForTokenClassification

from export.pipeline import export_checkpoint
from export.verification import numpy_gpt2 as oracle
from runtime.contract import HeadGraph, Kind, Variant
from runtime.manifest import Manifest
from tests.export.checkpoints import Ids, open_session, save_classifier, save_pair_reader

TOLERANCE = 2e-4
TEXTS: list[Ids] = [[5, 9, 14, 3], [7], [20, 21, 22, 23, 24, 25, 26, 27, 28]]


def run(artifact: Path, texts: list[Ids], variant: Variant = Variant.FP32) -> list[NDArray[np.float32]]:
    longest = max(map(len, texts))
    ids = np.array([text + [299] * (longest - len(text)) for text in texts], np.int64)
    lengths = np.array([len(text) for text in texts], np.int64)
    session = open_session(artifact / variant.value / "model.onnx")
    found: list[NDArray[np.float32]] = session.run(
        None, {HeadGraph.INPUT_IDS: ids, HeadGraph.LENGTHS: lengths}
    )
    return found


def test_classifier_equals_torch_and_the_oracle(
    checkpoint: Callable[[str], Path], artifact: Callable[[str], Path]
) -> None:
    model = GPT2ForSequenceClassification.from_pretrained(checkpoint("classifier")).eval()
    weights, config = oracle.load(checkpoint("classifier"))
    (logits,) = run(artifact("classifier"), TEXTS)
    assert logits.shape == (3, 3)
    for row, text in enumerate(TEXTS):
        with torch.no_grad():
            reference = model(torch.tensor([text])).logits[0].numpy()
        assert np.abs(logits[row] - reference).max() <= TOLERANCE
        assert np.abs(logits[row] - oracle.classifier_logits(weights, config, text)).max() <= TOLERANCE


def test_our_own_parts_equal_torch(
    checkpoint: Callable[[str], Path], artifact: Callable[[str], Path]
) -> None:
    folder = checkpoint("reader")
    model = GPT2ForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    for block in model.transformer.h:
        block.attn.bias.fill_(True)  # the causal mask of transformers' own attention
    table = load_file(folder / "model.safetensors")["ngrams.weight"]
    weights, config = oracle.load(folder)
    (logits,) = run(artifact("reader"), TEXTS)
    for row, text in enumerate(TEXTS):
        everything = torch.zeros(1, 1, len(text), len(text))
        grams = [text[i : i + n] for n in range(1, 6) for i in range(len(text) - n + 1)]
        buckets = torch.tensor([oracle.ngram_bucket(gram, 40) for gram in grams])
        with torch.no_grad():
            hidden = model.transformer(torch.tensor([text]), attention_mask=everything)[0]
            reference = (model.score(hidden[0, -1]) + table[buckets].sum(dim=0) / len(grams) ** 0.5).numpy()
        assert np.abs(logits[row] - reference).max() <= TOLERANCE
        assert np.abs(logits[row] - oracle.classifier_logits(weights, config, text)).max() <= TOLERANCE


def test_a_bag_of_pairs_equals_the_oracle(tmp_path: Path) -> None:
    save_pair_reader(tmp_path / "checkpoint")
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "artifact", name="x", variants=[Variant.FP32])
    weights, config = oracle.load(tmp_path / "checkpoint")
    end = config["eos_token_id"]
    # Some tokens of the second text are in the first; a pair without a second text; one text; no text.
    texts: list[Ids] = [[5, 9, 5, end, 9, 14, 9, 5, end], [7, 8, end], [20, 21], [end]]
    (logits,) = run(tmp_path / "artifact", texts)
    for row, text in enumerate(texts):
        assert np.abs(logits[row] - oracle.classifier_logits(weights, config, text)).max() <= TOLERANCE
    assert oracle.marked_pair(texts[0], end, 300) == [end, 9, 314, 9, 5, end]


def test_tagger_equals_torch(checkpoint: Callable[[str], Path], artifact: Callable[[str], Path]) -> None:
    model = GPT2ForTokenClassification.from_pretrained(checkpoint("tagger")).eval()
    logits, slots = run(artifact("tagger"), TEXTS)
    assert logits.shape == (3, 0)
    assert slots.shape == (3, 9, 5)
    for row, text in enumerate(TEXTS):
        with torch.no_grad():
            reference = model(torch.tensor([text])).logits[0].numpy()
        assert np.abs(slots[row, : len(text)] - reference).max() <= TOLERANCE


@pytest.mark.parametrize("kind", ["nlu", "joint_reader"])
def test_joint_nlu_equals_the_oracle(
    kind: str, checkpoint: Callable[[str], Path], artifact: Callable[[str], Path]
) -> None:
    weights, config = oracle.load(checkpoint(kind))
    logits, slots, *transitions = run(artifact(kind), TEXTS)
    for row, text in enumerate(TEXTS):
        intents, tags = oracle.nlu_logits(weights, config, text)
        assert np.abs(logits[row] - intents).max() <= TOLERANCE
        assert np.abs(slots[row, : len(text)] - tags).max() <= TOLERANCE
    manifest = Manifest.load(artifact(kind))
    assert manifest.labels == ("play", "book", "rate")
    assert manifest.slot_labels[:2] == ("O", "B-artist")
    assert manifest.nlu_echo is (kind == "nlu")
    assert manifest.slot_transitions is bool(transitions) is (kind == "joint_reader")
    for variant in Variant if transitions else ():
        found = run(artifact(kind), TEXTS, variant)[2]
        assert np.array_equal(found, weights["slot_transitions.weight"])


@pytest.mark.parametrize("variant", [Variant.FP32, Variant.INT8])
@pytest.mark.parametrize("kind", ["classifier", "tagger", "nlu", "reader", "joint_reader"])
def test_an_answer_does_not_depend_on_the_batch(
    kind: str, variant: Variant, artifact: Callable[[str], Path]
) -> None:
    together = run(artifact(kind), TEXTS * 4, variant)
    for row, text in enumerate(TEXTS):
        alone = run(artifact(kind), [text], variant)
        for one, many in zip(alone[:2], together[:2], strict=True):
            found = many[row, : len(text)] if many.ndim == 3 else many[row]
            if variant is Variant.INT8:
                assert np.array_equal(one[0], found)
            else:
                assert np.abs(one[0] - found).max(initial=0) <= 1e-5


@pytest.mark.parametrize(
    ("changes", "problem", "labels"),
    [
        ({"num_labels": 2}, "single_label_classification", 2),
        ({"num_labels": 1}, "regression", 1),
        ({"num_labels": 4, "problem_type": "multi_label_classification"}, "multi_label_classification", 4),
        ({"num_labels": 2, "problem_type": "regression"}, "regression", 2),
    ],
)
def test_problem_types(changes: dict[str, object], problem: str, labels: int, tmp_path: Path) -> None:
    save_classifier(tmp_path / "checkpoint", **changes)
    manifest = export_checkpoint(
        tmp_path / "checkpoint", tmp_path / "out", name="x", variants=[Variant.FP32, Variant.INT8]
    )
    assert manifest.kind is Kind.CLASSIFIER
    assert manifest.problem_type == problem
    assert len(manifest.labels) == labels
    quality = manifest.variants[Variant.INT8].quality
    assert quality is not None
    assert 0 <= quality["max_probability_shift"] < 0.2
