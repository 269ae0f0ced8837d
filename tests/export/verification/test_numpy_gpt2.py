"""The NumPy GPT-2 against transformers on torch, so that each can replace the other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2ForTokenClassification, GPT2Model

from export.verification import numpy_gpt2
from tests.export.checkpoints import save_lm
from tests.export.graph.test_language_model import FLAGS

TOLERANCE = 1e-5  # torch's own rounding: it computes in float32
IDS = [int(token) for token in np.random.default_rng(3).integers(1, 290, 40)]


def answer(model: Callable[[torch.Tensor], Any]) -> NDArray[np.float32]:
    """The first output for IDS."""
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.tensor([IDS]))[0][0].numpy()
    return logits


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS.keys())
def test_language_model(flags: dict[str, Any], tmp_path: Path) -> None:
    expected = answer(save_lm(tmp_path, **flags))
    weights, config = numpy_gpt2.load(tmp_path)
    exact = numpy_gpt2.lm_logits(weights, config, IDS)
    assert exact.dtype == np.float64
    assert np.abs(exact - expected).max() <= TOLERANCE
    single = numpy_gpt2.lm_logits(weights, config, IDS, np.float32)
    assert single.dtype == np.float32
    assert np.abs(single - exact).max() <= TOLERANCE


def test_classifier(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("classifier")
    expected = answer(GPT2ForSequenceClassification.from_pretrained(folder).eval())
    weights, config = numpy_gpt2.load(folder)
    assert expected.shape == (3,)
    assert np.abs(numpy_gpt2.classifier_logits(weights, config, IDS) - expected).max() <= TOLERANCE


def test_tagger(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("tagger")
    expected = answer(GPT2ForTokenClassification.from_pretrained(folder).eval())
    weights, config = numpy_gpt2.load(folder)
    assert expected.shape == (len(IDS), 5)
    assert np.abs(numpy_gpt2.token_logits(weights, config, IDS) - expected).max() <= TOLERANCE


def test_joint_nlu(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("nlu")
    tensors = load_file(folder / "model.safetensors")
    body = GPT2Model(GPT2Config.from_pretrained(folder, attn_implementation="eager")).eval()
    prefix = "transformer."
    body.load_state_dict(
        {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
    )
    hidden = torch.from_numpy(answer(body))
    weights, config = numpy_gpt2.load(folder)
    intents, slots = numpy_gpt2.nlu_logits(weights, config, IDS)
    for found, head, states in ((intents, "intent_head", hidden[-1]), (slots, "slot_head", hidden)):
        expected = states @ tensors[f"{head}.weight"].T + tensors[f"{head}.bias"]
        assert found.shape == expected.shape
        assert np.abs(found - expected.numpy()).max() <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sharded_and_narrow_checkpoints(dtype: torch.dtype, tmp_path: Path) -> None:
    model = save_lm(tmp_path / "whole").to(dtype)
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    expected = answer(model.float())  # the rounded weights, computed with in float32
    weights, config = numpy_gpt2.load(tmp_path / "shards")
    assert np.abs(numpy_gpt2.lm_logits(weights, config, IDS) - expected).max() <= TOLERANCE


def test_greedy_is_transformers_greedy(tmp_path: Path) -> None:
    model = save_lm(tmp_path)
    mask = torch.ones(1, 8, dtype=torch.int64)
    tokens = model.generate(
        torch.tensor([IDS[:8]]), attention_mask=mask, max_new_tokens=20, do_sample=False, eos_token_id=None
    )
    weights, config = numpy_gpt2.load(tmp_path)
    assert numpy_gpt2.greedy(weights, config, IDS[:8], 20) == tokens[0, 8:].tolist()


def test_absent_keys_mean_gpt2s_defaults(tmp_path: Path) -> None:
    """transformers leaves such keys out of config.json."""
    expected = answer(save_lm(tmp_path))
    path = tmp_path / "config.json"
    needed = ("n_embd", "n_layer", "n_head")
    path.write_text(json.dumps({key: json.loads(path.read_text())[key] for key in needed}), "utf-8")
    weights, config = numpy_gpt2.load(tmp_path)
    assert np.abs(numpy_gpt2.lm_logits(weights, config, IDS) - expected).max() <= TOLERANCE


def test_error_function() -> None:
    points = np.concatenate([np.linspace(-7, 7, 20_001), [np.inf, -np.inf]])
    expected = [math.erf(point) for point in points]
    assert np.abs(numpy_gpt2.erf(points) - expected).max() <= 1e-13
    assert numpy_gpt2.erf(points.astype(np.float32)).dtype == np.float32
