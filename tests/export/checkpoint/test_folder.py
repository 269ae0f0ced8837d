"""Reading checkpoints: every layout that transformers writes, and a clear refusal of everything else."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from export.checkpoint.folder import Checkpoint, expected_shapes
from export.checkpoint.tensors import SINGLE_FILE
from export.errors import CheckpointError
from tests.export.checkpoints import save_lm
from tests.export.edits import (
    Edit,
    add,
    change_config,
    change_tensors,
    index,
    only_pickle,
    poison,
    remove,
    write,
)


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the tiny language model, to be damaged."""
    return Path(shutil.copytree(checkpoint("lm"), tmp_path / "checkpoint"))


REFUSED: dict[str, tuple[Edit, str, str]] = {
    "config missing": (remove("config.json"), "config.json", "missing"),
    "config not JSON": (write("config.json", b"{"), "config.json", "not JSON"),
    "config deeply nested": (write("config.json", b"[" * 100_000), "config.json", "not JSON"),
    "config a list": (write("config.json", b"[]"), "config.json", "an object is needed"),
    "config not UTF-8": (write("config.json", b'{"a": "\xff"}'), "config.json", "not UTF-8 at byte 7"),
    "config key twice": (write("config.json", b'{"a": 1, "a": 2}'), "config.json", "twice"),
    "architecture unknown": (change_config(architectures=["BertModel"]), "architectures", "GPT2LMHeadModel"),
    "model type": (change_config(model_type="llama"), "model_type", "only gpt2"),
    "cross attention": (change_config(add_cross_attention=True), "add_cross_attention", "cross-attention"),
    "quantized": (change_config(quantization_config={"bits": 4}), "quantization_config", "not supported"),
    "activation": (change_config(activation_function="silu"), "activation_function", "another function"),
    "layers a string": (change_config(n_layer="2"), "n_layer", "whole number"),
    "layers true": (change_config(n_layer=True), "n_layer", "whole number"),
    "layers negative": (change_config(n_layer=-1), "n_layer", "whole number"),
    "heads not a divisor": (change_config(n_head=3), "n_head", "multiple"),
    "epsilon NaN": (change_config(layer_norm_epsilon=float("nan")), "config.json", "NaN is no finite number"),
    "flag a string": (change_config(scale_attn_weights="yes"), "scale_attn_weights", "true or false"),
    "eos beyond the vocabulary": (change_config(eos_token_id=300), "eos_token_id", "0 to 299"),
    "eos missing from a small vocabulary": (
        change_config(eos_token_id=None),
        "eos_token_id",
        "absent, which means 50256, but vocab_size is 300: give the id",
    ),
    "padding that is no number": (change_config(pad_token_id="0"), "pad_token_id", "a whole number or null"),
    "adapter": (write("adapter_config.json", b"{}"), "adapter_config.json", "merges it into its base"),
    "adapter without its settings": (
        write("adapter_model.safetensors", b""),
        "adapter_model.safetensors",
        "merges it into its base",
    ),
    "more layers than weights": (
        change_config(n_layer=3),
        "h.2.ln_1.weight",
        "missing, expected shape (64,)",
    ),
    "fewer layers than weights": (change_config(n_layer=1), "h.1.attn.c_attn.bias", "no such weight"),
    "wider than the weights": (change_config(n_embd=128), "wte.weight", "expected shape (300, 128), found"),
    "shorter context": (
        change_config(n_positions=64),
        "wpe.weight",
        "expected shape (64, 64), found (96, 64)",
    ),
    "untied without a head": (change_config(tie_word_embeddings=False), "lm_head.weight", "missing"),
    "vocabulary too small": (
        lambda folder: (
            change_config(vocab_size=200)(folder),
            change_tensors(
                lambda tensors: tensors.update(
                    {"transformer.wte.weight": tensors["transformer.wte.weight"][:200].clone()}
                )
            )(folder),
        )[1],
        "vocab_size",
        "vocab_size 200",
    ),
    "no weights": (remove("model.safetensors"), "model.safetensors", "missing"),
    "only a pickle": (only_pickle, "pytorch_model.bin", "save_pretrained(f)"),
    "weights empty": (write("model.safetensors", b""), "model.safetensors", "too short"),
    "tensor missing": (
        change_tensors(lambda tensors: tensors.pop("transformer.ln_f.bias")),
        "ln_f.bias",
        "missing",
    ),
    "tensor unknown": (add("transformer.h.0.attn.extra", 4, 4), "h.0.attn.extra", "no such"),
    "adapters not merged": (
        add("transformer.h.0.attn.c_attn.lora_A", 4, 4),
        "transformer.h.0.attn.c_attn.lora_A",
        "merge_and_unload",
    ),
    "index without map": (index(None), "model.safetensors.index.json", "weight_map"),
    "index with a path": (
        index({"wte.weight": "../x.safetensors"}),
        "wte.weight",
        "not a safetensors file name",
    ),
    "index with a pickle": (index({"wte.weight": "x.bin"}), "wte.weight", "not a safetensors file name"),
    "shard missing": (index({"wte.weight": "x.safetensors"}), "x.safetensors", "missing"),
    "tensor not in its shard": (
        index({"nothing": "model.safetensors"}),
        "nothing",
        "not in model.safetensors",
    ),
    "tokenizer missing": (remove("tokenizer.json"), "tokenizer.json", "missing"),
    "tokenizer not JSON": (write("tokenizer.json", b"no"), "tokenizer.json", "not JSON"),
    "tokenizer of nothing": (write("tokenizer.json", b"{}"), "tokenizer.json", "tokenizer.json"),
}


@pytest.mark.parametrize(("edit", "field", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(edit: Edit, field: str, message: str, folder: Path) -> None:
    edit(folder)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    assert caught.value.field == field
    assert message in caught.value.message
    assert str(folder) not in caught.value.message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_refuses_weights_that_are_no_numbers(value: float, folder: Path) -> None:
    poison(value)(folder)
    opened = Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match=r"c_fc\.weight: holds NaN or infinite"):
        opened.weight("h.1.mlp.c_fc.weight")


def test_refuses_whole_numbers_as_weights(folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.ln_f.bias"] = torch.zeros(64, dtype=torch.int32)

    change_tensors(change)(folder)
    with pytest.raises(CheckpointError, match="dtype I32, but only F32, F16, F64, BF16"):
        Checkpoint.open(folder).weight("ln_f.bias")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_reads_floats_as_torch_does(dtype: torch.dtype, folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(dtype)

    change_tensors(change)(folder)
    tensors = load_file(folder / "model.safetensors")
    opened = Checkpoint.open(folder)
    for name, tensor in tensors.items():
        assert np.array_equal(opened.weight(name.removeprefix("transformer.")), tensor.float().numpy())


def test_reads_names_without_prefix_and_old_buffers(folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 96, 96)
        tensors["h.0.attn.masked_bias"] = torch.tensor(-1e4)
        tensors["lm_head.weight"] = tensors["wte.weight"].clone()

    before = Checkpoint.open(folder).weight("h.1.attn.c_attn.weight")
    change_tensors(change)(folder)
    assert np.array_equal(Checkpoint.open(folder).weight("h.1.attn.c_attn.weight"), before)


def test_reads_shards(tmp_path: Path) -> None:
    model = save_lm(tmp_path / "single")
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    shutil.copy(tmp_path / "single" / "tokenizer.json", tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    single, sharded = Checkpoint.open(tmp_path / "single"), Checkpoint.open(tmp_path / "shards")
    for name in ("wte.weight", "h.1.mlp.c_proj.weight", "ln_f.bias"):
        assert np.array_equal(single.weight(name), sharded.weight(name))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "id2label"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "id2label"),
        ({"id2label": ["a", "b", "c"]}, "id2label"),
        ({"id2label": {"0": "a", "1": "b"}}, "id2label"),
        ({"problem_type": "ranking"}, "problem_type"),
    ],
)
def test_refuses_labels(
    changes: dict[str, Any], field: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint("classifier"), tmp_path / "checkpoint"))
    change_config(**changes)(folder)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    assert caught.value.field == field


@pytest.mark.parametrize("slots", [None, [], ["O", "O"], ["O", 1], "O"])
def test_refuses_slot_labels(slots: object, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("nlu"), tmp_path / "checkpoint"))
    change_config(slot_labels=slots)(folder)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    assert caught.value.field == "slot_labels"


@pytest.mark.parametrize("kind", ["lm", "classifier"])
def test_the_line_that_converts_a_pickle_does(
    kind: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(checkpoint(kind), folder)
    torch.save(load_file(folder / SINGLE_FILE), folder / "pytorch_model.bin")
    (folder / SINGLE_FILE).unlink()
    with pytest.raises(CheckpointError, match="pickles are not opened") as caught:
        Checkpoint.open(folder)
    (line,) = re.findall(r"python (-c .*)$", caught.value.message)
    command = [sys.executable, *shlex.split(line.replace("FOLDER", str(folder)))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    plain, converted = Checkpoint.open(checkpoint(kind)), Checkpoint.open(folder)
    assert converted.config == plain.config
    for name in expected_shapes(plain.config):
        assert np.array_equal(converted.weight(name), plain.weight(name))
