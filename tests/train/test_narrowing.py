"""A narrower model is the wide one where no point leaves the axes, and its shape is what was asked for."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from export.verification.narrow import narrowed
from tests.train.tiny import SENTENCES, tiny_config, tiny_tokenizer
from train.data import Kind, TextRow
from train.kinds import make_training
from train.narrowing import with_width
from train.options import make_options
from train.start import Start

TOKENIZER = tiny_tokenizer()


def wide(seed: int = 0, neurons: int | None = None) -> GPT2LMHeadModel:
    config = tiny_config(TOKENIZER)
    config.n_inner = neurons
    config.n_head = 2
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config).eval()
        for parameter in model.parameters():
            parameter.data.normal_(std=0.2)
    return model


def start_of(model: GPT2LMHeadModel) -> Start:
    return Start(model.config, TOKENIZER, model.transformer.state_dict(), None, "a test")


def narrow(start: Start, neurons: int | None = None) -> Start:
    rows = [TextRow(number, text) for number, text in enumerate(SENTENCES)]
    options = make_options(Kind.LM, train=Path(), out=Path(), context=16)
    whole = replace(start, config=deepcopy(start.config))
    return with_width(start, make_training(Kind.LM, whole, rows, options), 32, neurons)


def logits_of(start: Start, ids: Tensor) -> Tensor:
    model = narrowed(GPT2LMHeadModel)(start.config).eval()
    start.load_into(model, heads=True)
    found: Tensor = model(ids).logits
    return found


@torch.no_grad()
def keep_on(body: Any, axes: Tensor) -> None:
    """Leave no point, head or neuron that a model of half the width has no room for."""
    for block in body.h:
        block.attn.c_proj.weight[32:] = 0  # the second head says nothing, and so do half of the neurons
        block.mlp.c_proj.weight[::2] = 0
        for writer in (block.attn.c_proj, block.mlp.c_proj):
            writer.weight.copy_(writer.weight @ axes @ axes.T)
            writer.bias.copy_(writer.bias @ axes @ axes.T)
    for table in (body.wte, body.wpe):
        table.weight.copy_(table.weight @ axes @ axes.T)
    body.ln_f.weight.fill_(0.7)
    body.ln_f.bias.copy_(body.ln_f.bias @ axes @ axes.T)


def test_nothing_is_lost_where_all_points_are_on_the_axes() -> None:
    model = wide()
    # 31 axes, none of which changes the mean of a point: a layer norm takes it away.
    axes = torch.linalg.qr(torch.cat([torch.ones(64, 1), torch.randn(64, 31)], dim=1)).Q[:, 1:]
    keep_on(model.transformer, axes)
    ids = torch.arange(40)[None]
    expected = model(ids).logits
    found = logits_of(narrow(start_of(model)), ids)
    assert torch.allclose(found, expected, atol=1e-3)


def test_the_number_of_neurons_is_chosen() -> None:
    start = narrow(start_of(wide()), 48)
    assert (start.config.n_embd, start.config.n_head, start.config.n_inner) == (32, 1, 48)
    assert start.tensors["h.1.mlp.c_fc.weight"].shape == (32, 48)
    assert logits_of(start, torch.arange(5)[None]).isfinite().all()


def test_layers_that_are_smaller_stay_so() -> None:
    model = wide()
    tensors = model.transformer.state_dict()
    tensors["h.0.mlp.c_fc.weight"] = tensors["h.0.mlp.c_fc.weight"][:, :32]
    tensors["h.0.mlp.c_fc.bias"] = tensors["h.0.mlp.c_fc.bias"][:32]
    tensors["h.0.mlp.c_proj.weight"] = tensors["h.0.mlp.c_proj.weight"][:32]
    model.config.layer_neurons = [32, 256]
    start = narrow(Start(model.config, TOKENIZER, tensors, None, "a test"))
    assert start.config.layer_neurons == [32, 128]
    assert logits_of(start, torch.arange(5)[None]).isfinite().all()


@pytest.mark.parametrize("neurons", [257, -1])
def test_neurons_are_no_more_than_the_starts(neurons: int) -> None:
    with pytest.raises(ValueError, match=r"neurons: -?\d+: from 1 to 256, the start's"):
        narrow(start_of(wide()), neurons)


def test_by_default_neurons_are_no_more_than_the_starts() -> None:
    assert narrow(start_of(wide(neurons=100))).config.n_inner == 100


def test_a_head_that_is_not_the_embedding_is_on_the_axes_too() -> None:
    start = start_of(wide())
    head = start.tensors["wte.weight"] * 3
    narrowed = narrow(replace(start, tensors={**start.tensors, "lm_head.weight": head}))
    assert torch.allclose(narrowed.tensors["lm_head.weight"], narrowed.tensors["wte.weight"] * 3, atol=1e-4)
