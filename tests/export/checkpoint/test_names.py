"""Tensors under the names that training programs leave, and heads that are left over."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from transformers import GPT2DoubleHeadsModel, GPT2LMHeadModel, GPT2Model

from export.checkpoint.folder import Checkpoint, expected_shapes
from export.errors import CheckpointError
from tests.export.checkpoints import random_model, save_tokenizer, tiny_config
from tests.export.edits import add, change_config, change_tensors

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("lm"), tmp_path / "checkpoint"))


def assert_same_weights(one: Path, other: Path) -> None:
    read, expected = Checkpoint.open(one), Checkpoint.open(other)
    for name in expected_shapes(expected.config):
        assert np.array_equal(read.weight(name), expected.weight(name))


def renamed(change: Callable[[str], str]) -> Callable[[Path], object]:
    def edit(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[change(name)] = tensors.pop(name)

    return change_tensors(edit)


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"model.{name}",
        lambda name: f"pretrained_model.{name}",
        lambda name: name.replace(".h.", ".h._fsdp_wrapped_module."),
        lambda name: name.replace(".mlp.", "._checkpoint_wrapped_module.mlp."),
        lambda name: name.removeprefix("transformer.") if ".h.1." in name else name,
    ],
    ids=["DataParallel", "compile", "both", "Lightning", "TRL", "FSDP", "checkpointing", "a part bare"],
)
def test_prefixes_of_wrappers(
    change: Callable[[str], str], folder: Path, checkpoint: Callable[[str], Path]
) -> None:
    renamed(change)(folder)
    assert_same_weights(folder, checkpoint("lm"))


def test_two_names_of_one_weight_are_refused(folder: Path) -> None:
    add("module.transformer.ln_f.bias", 64)(folder)
    with pytest.raises(CheckpointError, match=r"with and without a prefix: .*ln_f\.bias is the same weight"):
        Checkpoint.open(folder)


def test_a_tied_model_with_one_name(checkpoint: Callable[[str], Path], folder: Path) -> None:
    """As safetensors' own save_model writes it: the other name is in the file's notes."""
    model = GPT2LMHeadModel.from_pretrained(folder)
    save_model(model, str(folder / "model.safetensors"))
    assert "transformer.wte.weight" not in load_file(folder / "model.safetensors")
    assert_same_weights(folder, checkpoint("lm"))


def test_a_tied_model_with_its_head_alone(checkpoint: Callable[[str], Path], folder: Path) -> None:
    renamed(lambda name: name.replace("transformer.wte", "lm_head"))(folder)
    assert_same_weights(folder, checkpoint("lm"))


def test_a_left_out_name_of_an_untied_model(folder: Path) -> None:
    change_config(tie_word_embeddings=False)(folder)
    tensors = load_file(folder / "model.safetensors")
    notes = {"lm_head.weight": "transformer.wte.weight"}
    save_file(tensors, folder / "model.safetensors", metadata=notes)
    opened = Checkpoint.open(folder)
    assert np.array_equal(opened.weight("lm_head.weight"), opened.weight("wte.weight"))


def test_two_heads(tmp_path: Path) -> None:
    model = random_model(GPT2DoubleHeadsModel, tiny_config(num_labels=1))
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    opened = Checkpoint.open(tmp_path)
    assert opened.notes == (
        "GPT2DoubleHeadsModel: its language model is served",
        "multiple_choice_head: left out, GPT2LMHeadModel has no such head",
    )
    assert np.array_equal(opened.weight("wte.weight"), model.transformer.wte.weight.detach().numpy())


@pytest.mark.parametrize(
    "name", ["multiple_choice_head.summary.weight", "v_head.summary.bias", "score.weight"]
)
def test_a_head_that_is_left_over(name: str, folder: Path) -> None:
    add(name, 4)(folder)
    head = name.partition(".")[0]
    assert Checkpoint.open(folder).notes == (f"{head}: left out, GPT2LMHeadModel has no such head",)


@pytest.mark.parametrize("tied", [True, False])
def test_a_bare_body(tied: bool, tmp_path: Path) -> None:
    random_model(GPT2Model, tiny_config(tie_word_embeddings=tied)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    opened = Checkpoint.open(tmp_path)
    assert opened.config.tied
    (note,) = opened.notes
    assert note.startswith("GPT2Model: a body without a head, for embeddings")


def test_a_class_that_is_not_named(checkpoint: Callable[[str], Path], folder: Path, tmp_path: Path) -> None:
    change_config(architectures=None)(folder)
    assert Checkpoint.open(folder).notes == ("architectures: null, taken as GPT2LMHeadModel",)
    for kind, name in (
        ("classifier", "GPT2ForSequenceClassification"),
        ("tagger", "GPT2ForTokenClassification"),
        ("nlu", "GPT2ForJointNlu"),
    ):
        other = Path(shutil.copytree(checkpoint(kind), tmp_path / kind))
        change_config(architectures=None)(other)
        with pytest.raises(CheckpointError, match=f"name the model's class, {name}") as caught:
            Checkpoint.open(other)
        assert caught.value.field == "architectures"
