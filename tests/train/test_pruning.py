"""Structured pruning: what does nothing goes first, and the cut model computes as the whole one did."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2LMHeadModel

from export.checkpoint.folder import Checkpoint
from export.pipeline import export_checkpoint
from export.verification import numpy_gpt2 as oracle
from runtime.contract import Variant
from runtime.manifest import Manifest
from tests.train.tiny import SENTENCES, tiny_config, tiny_tokenizer
from train.batching import Batch
from train.checkpoint import save_checkpoint
from train.pruning import Criterion, Importance, Ranking, Shares, cut, kept_units, measure_importance

TOKENIZER = tiny_tokenizer()


@pytest.fixture
def model() -> GPT2LMHeadModel:
    """Two layers of four heads of 16, and of 256 neurons."""
    config = tiny_config(TOKENIZER)
    config.n_head = 4
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = GPT2LMHeadModel(config)
        for parameter in made.parameters():
            parameter.data.add_(torch.randn(parameter.shape) * 0.05)
    return made.eval()


def rows() -> Tensor:
    ids = [TOKENIZER.encode(text).ids[:10] for text in SENTENCES]
    return torch.tensor(ids)


def loss_of(model: GPT2LMHeadModel, batch: Batch) -> Tensor:
    logits = model(batch["rows"], use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), batch["rows"][:, 1:].flatten())


def importance(model: GPT2LMHeadModel, criterion: Criterion = Criterion.TAYLOR) -> Importance:
    return measure_importance(model, lambda batch: loss_of(model, batch), [{"rows": rows()}], criterion)


@torch.no_grad()
def silence(model: GPT2LMHeadModel, layer: int, heads: list[int], neurons: list[int]) -> None:
    """Heads and neurons whose outputs nothing reads."""
    block = model.transformer.h[layer]
    for head in heads:
        block.attn.c_proj.weight[16 * head : 16 * head + 16] = 0
    block.mlp.c_proj.weight[neurons] = 0


@pytest.mark.parametrize("criterion", list(Criterion))
def test_importance_is_the_change_of_the_loss(criterion: Criterion, model: GPT2LMHeadModel) -> None:
    silence(model, 1, [2], [5])
    found = importance(model, criterion)
    assert [len(layer) for layer in found.heads + found.neurons] == [4, 4, 256, 256]
    if criterion is Criterion.ACTIVATION:
        assert found.neurons[1][5] > 0
        return
    assert found.heads[1][2] == 0
    assert found.neurons[1][5] == 0
    before = loss_of(model, {"rows": rows()[:1]}).item()
    one = measure_importance(model, lambda batch: loss_of(model, batch), [{"rows": rows()[:1]}])
    model.transformer.h[0].mlp.c_proj.weight.data[9] *= 0.99
    change = loss_of(model, {"rows": rows()[:1]}).item() - before
    assert abs(change) == pytest.approx(0.01 * float(one.neurons[0][9]), rel=0.02)


def test_a_cut_model_computes_as_the_whole_one_without_the_units(model: GPT2LMHeadModel) -> None:
    silence(model, 0, [1, 3], list(range(100, 256)))
    silence(model, 1, [0], list(range(0, 256, 2)))
    whole = copy.deepcopy(model)
    kept_heads = [torch.tensor([0, 2]), torch.tensor([1, 2, 3])]
    kept_neurons = [torch.arange(100), torch.arange(1, 256, 2)]
    cut(model.transformer, kept_heads, kept_neurons)
    with torch.no_grad():
        assert torch.allclose(model(rows()).logits, whole(rows()).logits, atol=1e-5)
    assert model.config.layer_heads == [2, 3]
    assert model.config.layer_neurons == [100, 128]
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())


def test_what_does_nothing_goes_first(model: GPT2LMHeadModel) -> None:
    silence(model, 0, [1], list(range(32)))
    silence(model, 1, [0, 3], list(range(64, 160)))
    heads, neurons = kept_units(importance(model), Shares(heads=3 / 8, neurons=0.25))
    assert [layer.tolist() for layer in heads] == [[0, 2, 3], [1, 2]]
    assert neurons[0].tolist() == list(range(32, 256))
    assert neurons[1].tolist() == [*range(64), *range(160, 256)]


def test_each_layer_loses_the_same_by_layer() -> None:
    found = Importance([torch.tensor([1.0, 9, 2, 8])] * 2, [torch.arange(64.0), torch.arange(64.0) * 1000])
    heads, neurons = kept_units(found, Shares(0.5, 0.5, Ranking.LAYER))
    assert [layer.tolist() for layer in heads] == [[1, 3], [1, 3]]
    assert [layer.tolist() for layer in neurons] == [list(range(32, 64))] * 2


@pytest.mark.parametrize(("share", "kept"), [(0.0, 100), (0.01, 96), (0.1, 80), (0.999, 16)])
def test_neurons_go_in_groups_and_one_stays(share: float, kept: int) -> None:
    found = Importance([torch.ones(4)], [torch.rand(100, dtype=torch.float64)])
    heads, neurons = kept_units(found, Shares(share, share))
    assert len(neurons[0]) == kept
    assert len(heads[0]) >= 1


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_are_checked(share: float) -> None:
    with pytest.raises(ValueError, match=r"neurons: .*: a share from 0 to below 1 is needed"):
        Shares(0.1, share)


def test_the_checkpoint_is_smaller_and_exports(model: GPT2LMHeadModel, tmp_path: Path) -> None:
    heads, neurons = kept_units(importance(model), Shares(0.25, 0.5))
    cut(model.transformer, heads, neurons)
    names = ["GPT2LMHeadModel"]
    save_checkpoint(tmp_path / "pruned", model, model.config, TOKENIZER, architectures=names)
    written = json.loads((tmp_path / "pruned" / "config.json").read_text("utf-8"))
    assert sum(written["layer_heads"]) == 6
    assert sum(written["layer_neurons"]) == 256
    config = Checkpoint.open(tmp_path / "pruned").config
    assert list(config.layer_neurons) == written["layer_neurons"]
    export_checkpoint(tmp_path / "pruned", tmp_path / "out", name="x", variants=[Variant.FP32])
    assert Manifest.load(tmp_path / "out").architecture.heads == config.layer_heads
    weights, plain = oracle.load(tmp_path / "pruned")
    ids = rows()[0].tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0]
    found = torch.from_numpy(oracle.lm_logits(weights, plain, ids))
    assert (found - expected).abs().max() < 0.02  # weights are stored in fp16
