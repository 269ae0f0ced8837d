"""Checkpoints whose layers have different numbers of heads and neurons, against NumPy and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.pipeline import export_checkpoint
from export.validation.artifact import import_artifact
from export.verification import numpy_gpt2 as oracle
from export.verification.verify import verify
from runtime.contract import Variant
from runtime.load import load_engine
from runtime.manifest import Manifest
from tests.export.checkpoints import Ids, LmRunner, save_classifier, save_lm, save_nlu, save_reader
from tests.export.graph.test_heads import TEXTS, run
from tests.runtime.engines import submit, version_folder

PRUNED: dict[str, Any] = {"n_head": 4, "layer_heads": [3, 1], "layer_neurons": [100, 33]}
# The largest difference of a logit as a share of the largest logit; int4 is coarse on a random model.
TOLERANCES = {Variant.FP32: 1e-5, Variant.FP16: 5e-3, Variant.INT8: 0.1, Variant.INT4: 0.5}
PROMPTS: list[Ids] = [
    [int(token) for token in np.random.default_rng(seed).integers(1, 290, length)]
    for seed, length in enumerate((5, 9, 14))
]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pruned language model, with its artifact in `out`."""
    folder = tmp_path_factory.mktemp("pruned") / "lm"
    save_lm(folder, **PRUNED)
    export_checkpoint(folder, folder / "out", name="x", variants=tuple(Variant))
    return folder


@pytest.mark.parametrize("variant", list(Variant))
def test_a_language_model_equals_the_oracle(variant: Variant, lm: Path) -> None:
    weights, config = oracle.load(lm)
    runner = LmRunner(lm / "out", variant, slots=3)
    for slot, prompt in enumerate(PROMPTS):
        runner.run([prompt], [0], slot=slot)
    found, _ = runner.run([[7], [8], [9]], [len(prompt) for prompt in PROMPTS])
    for row, prompt in enumerate(PROMPTS):
        expected = oracle.lm_logits(weights, config, [*prompt, 7 + row])[-1]
        off = found[row] - expected
        # fp16 subtracts the same number from all logits.
        assert np.abs(off - off.mean()).max() <= TOLERANCES[variant] * np.abs(expected).max()


def test_transformers_and_optimum_agree(lm: Path) -> None:
    rows = verify(lm, lm / "out", prompts=4, tokens=8)
    assert [row.reference.split()[0] for row in rows if row.passed] == ["transformers", "optimum"]


def test_the_engine_keeps_a_cache_of_each_width(lm: Path, tmp_path: Path) -> None:
    """Sequences that run together, end at different times and reuse a prefix answer as the oracle does."""
    weights, config = oracle.load(lm)
    engine = load_engine(version_folder(lm / "out", tmp_path / "1", num_slots=3))
    try:
        for count in (6, 12):
            lengths = [count + 3 * number for number in range(len(PROMPTS))]
            sinks = [
                submit(
                    engine, "", {"temperature": 0, "max_tokens": length, "ignore_eos": True}, token_ids=ids
                )
                for ids, length in zip(PROMPTS, lengths, strict=True)
            ]
            for ids, length, sink in zip(PROMPTS, lengths, sinks, strict=True):
                found = sink.wait().details["choices"][0]["token_ids"]
                assert found == oracle.greedy(weights, config, ids, length)
    finally:
        engine.close()


def test_an_artifact_says_how_many_heads_there_are(lm: Path, tmp_path: Path) -> None:
    manifest = import_artifact(lm / "out", tmp_path / "out")
    assert manifest.architecture.heads == (3, 1)
    assert Manifest.load(lm / "out").architecture.layer_heads == (3, 1)


@pytest.mark.parametrize("variant", [Variant.FP32, Variant.INT8])
def test_heads_equal_the_oracle(variant: Variant, tmp_path: Path) -> None:
    save_classifier(tmp_path / "classifier", **PRUNED)
    save_reader(tmp_path / "reader", **PRUNED)
    save_nlu(tmp_path / "nlu", echo=True, **PRUNED)
    for kind in ("classifier", "reader", "nlu"):
        weights, config = oracle.load(tmp_path / kind)
        export_checkpoint(tmp_path / kind, tmp_path / "out" / kind, name="x", variants=[variant])
        found, *slots = run(tmp_path / "out" / kind, TEXTS, variant)
        for row, text in enumerate(TEXTS):
            if kind != "nlu":
                expected = oracle.classifier_logits(weights, config, text)
            else:
                expected, tags = oracle.nlu_logits(weights, config, text)
                near = TOLERANCES[variant] * np.abs(tags).max()
                assert np.abs(slots[0][row, : len(text)] - tags).max() <= near
            assert np.abs(found[row] - expected).max() <= TOLERANCES[variant] * np.abs(expected).max()
