"""Adapters merged into their base: against the same model with LoRA computed beside each module in torch."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from export.adapter import merge_adapter
from export.checkpoint.folder import Checkpoint
from export.errors import CheckpointError, ExportError
from export.inspection.checkpoint import CheckpointFacts
from export.inspection.inspect import inspect_path
from export.members import ArchiveLimits
from export.source import export_source, merged, open_source
from runtime.contract import Kind, Variant
from tests.export.archives import tar_of

RANK = 4
IDS = torch.tensor([[5, 9, 33, 2, 250]])
SETTINGS: dict[str, Any] = {
    **{"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "task_type": "CAUSAL_LM", "fan_in_fan_out": True},
    **{"target_modules": ["c_attn"], "use_rslora": False, "use_dora": False, "bias": "none"},
}
Tensors = dict[str, torch.Tensor]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.2


def write(folder: Path, tensors: Tensors, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(
        {f"base_model.model.{name}": tensor for name, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(json.dumps(SETTINGS | changes), "utf-8")
    return folder


def pair(name: str, width_in: int, width_out: int) -> Tensors:
    return {f"{name}.lora_A.weight": random(RANK, width_in), f"{name}.lora_B.weight": random(width_out, RANK)}


def with_lora(model: torch.nn.Module, tensors: Tensors, scale: float) -> torch.nn.Module:
    """LoRA as its paper has it: beside the module, on the module's input."""
    modules = dict(model.named_modules())
    for name in {key.partition(".lora_")[0] for key in tensors if ".lora_" in key}:
        low, high = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]

        def beside(
            _: Any, inputs: Any, output: Any, low: torch.Tensor = low, high: torch.Tensor = high
        ) -> Any:
            return output + scale * (inputs[0] @ low.T) @ high.T

        modules[name].register_forward_hook(beside)
    return model.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(IDS).logits
    return found


def merge(base: Path, adapter: Path, into: Path) -> Path:
    into.mkdir()
    merge_adapter(base, adapter, into)
    Checkpoint.open(into)
    return into


CASES: dict[str, tuple[Tensors, dict[str, Any], float]] = {
    "attention": (pair("transformer.h.0.attn.c_attn", 64, 192), {}, 4.0),
    "rslora": (pair("transformer.h.1.attn.c_attn", 64, 192), {"use_rslora": True}, 16 / math.sqrt(RANK)),
    "all": (
        {
            **pair("transformer.h.0.attn.c_attn", 64, 192),
            **pair("transformer.h.0.attn.c_proj", 64, 64),
            **pair("transformer.h.1.mlp.c_fc", 64, 256),
            **pair("transformer.h.1.mlp.c_proj", 256, 64),
        },
        {"fan_in_fan_out": False},  # PEFT sets it for Conv1D, whatever is written
        4.0,
    ),
    "head": (pair("lm_head", 64, 300), {}, 4.0),
}


@pytest.mark.parametrize("name", CASES)
def test_a_merged_model_is_the_model_with_its_adapter(
    name: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    tensors, changes, scale = CASES[name]
    folder = merge(checkpoint("lm"), write(tmp_path / "lora", tensors, **changes), tmp_path / "merged")
    expected = with_lora(GPT2LMHeadModel.from_pretrained(checkpoint("lm")), tensors, scale)
    found = logits(GPT2LMHeadModel.from_pretrained(folder).eval())
    torch.testing.assert_close(found, logits(expected), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(
        found, logits(GPT2LMHeadModel.from_pretrained(checkpoint("lm")).eval()), atol=0.1
    )


@pytest.mark.parametrize("name", ["transformer.wte", "lm_head"])
def test_a_weight_that_was_trained_whole(
    name: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """The other of the two tied weights keeps its own, as in PEFT."""
    weight = random(300, 64)
    folder = merge(
        checkpoint("lm"), write(tmp_path / "lora", {f"{name}.weight": weight}), tmp_path / "merged"
    )
    model = GPT2LMHeadModel.from_pretrained(checkpoint("lm"))
    module = model.get_submodule(name)
    module.weight = torch.nn.Parameter(weight)
    torch.testing.assert_close(
        logits(GPT2LMHeadModel.from_pretrained(folder).eval()), logits(model.eval()), atol=1e-4, rtol=1e-4
    )


def test_a_larger_vocabulary_comes_with_its_tokenizer(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    tensors = {"transformer.wte.weight": random(304, 64), "lm_head.weight": random(304, 64)}
    adapter = write(tmp_path / "lora", tensors)
    shutil.copy(checkpoint("lm") / "tokenizer.json", adapter)
    (adapter / "added_tokens.json").write_text('{"<new>": 290}')
    opened = Checkpoint.open(merge(checkpoint("lm"), adapter, tmp_path / "merged"))
    assert opened.config.vocab_size == 304
    assert opened.tokenizer.encode("<new>").ids == [290]


def test_a_classifier_s_adapter_brings_its_head(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    tensors = {"score.weight": random(3, 64), **pair("transformer.h.0.attn.c_attn", 64, 192)}
    adapter = write(tmp_path / "lora", tensors, task_type="SEQ_CLS")
    folder = merge(checkpoint("lm"), adapter, tmp_path / "merged")
    assert Checkpoint.open(folder).config.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    model = GPT2ForSequenceClassification.from_pretrained(checkpoint("classifier"))
    model.transformer.load_state_dict(
        GPT2LMHeadModel.from_pretrained(checkpoint("lm")).transformer.state_dict()
    )
    model.score.weight = torch.nn.Parameter(tensors["score.weight"])
    found = logits(GPT2ForSequenceClassification.from_pretrained(folder).eval())
    torch.testing.assert_close(found, logits(with_lora(model, tensors, 4.0)), atol=1e-4, rtol=1e-4)


SOUND = pair("transformer.h.0.attn.c_attn", 64, 192)
REFUSED: dict[str, tuple[Tensors, dict[str, Any], str]] = {
    "another method": (SOUND, {"peft_type": "IA3"}, "peft_type: 'IA3', but only LORA is merged"),
    "DoRA": (SOUND, {"use_dora": True}, "use_dora: True is not merged here"),
    "alpha": (SOUND, {"lora_alpha": "16"}, "lora_alpha: '16': a number is needed"),
    "half a pair": ({"transformer.h.0.attn.c_attn.lora_A.weight": random(4, 64)}, {}, "LoRA needs A and B"),
    "another width": (pair("transformer.h.0.attn.c_attn", 32, 192), {}, "but the adapter has A (4, 32)"),
    "another layer": (
        pair("transformer.h.7.attn.c_attn", 64, 192),
        {},
        "in the adapter, but not in the base",
    ),
    "a magnitude": (
        SOUND | {"transformer.h.0.attn.c_attn.lora_magnitude_vector": random(192)},
        {},
        "this kind of LoRA is not merged here",
    ),
}


@pytest.mark.parametrize(("tensors", "changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(
    tensors: Tensors, changes: dict[str, Any], message: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    adapter = write(tmp_path / "lora", tensors, **changes)
    with pytest.raises(CheckpointError) as caught:
        merge(checkpoint("lm"), adapter, tmp_path / "merged")
    assert message in caught.value.message


def test_an_export_merges_it(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    adapter = write(tmp_path / "lora", SOUND)
    manifest = export_source(
        checkpoint("lm"),
        tmp_path / "out",
        name="x",
        variants=[Variant.FP32],
        overwrite=False,
        limits=ArchiveLimits(),
        adapter=adapter,
    )
    assert manifest.kind is Kind.LM
    assert manifest.provenance["source"] == "lm with lora"
    assert manifest.provenance["notes"] == "the adapter lora is merged into it"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("place", ["beside", "in the base's folder"])
def test_an_archive_of_both_is_merged(place: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    adapter = write(tmp_path / "lora", SOUND)
    where = "lora" if place == "beside" else "lm"
    files = {f"lm/{path.name}": path.read_bytes() for path in checkpoint("lm").iterdir()}
    files |= {f"{where}/{path.name}": path.read_bytes() for path in adapter.iterdir()}
    (tmp_path / "upload").write_bytes(tar_of(files))
    limits = ArchiveLimits()
    with (
        open_source(tmp_path / "upload", tmp_path / "unpacked", limits) as opened,
        merged(opened, None, tmp_path / "merged") as found,
    ):
        assert found.folder == tmp_path / "merged"
        Checkpoint.open(found.folder)
    if place != "beside":
        facts = inspect_path(tmp_path / "upload", limits)
        assert isinstance(facts, CheckpointFacts)
        assert facts.problem is None


def test_an_adapter_alone_is_named(tmp_path: Path) -> None:
    adapter = write(tmp_path / "lora", SOUND)
    with (
        pytest.raises(ExportError, match="an adapter without its base"),
        open_source(adapter, tmp_path / "scratch", ArchiveLimits()),
    ):
        pass
    files = {f"lora/{path.name}": path.read_bytes() for path in adapter.iterdir()}
    (tmp_path / "upload").write_bytes(tar_of(files))
    with (
        pytest.raises(ExportError, match="without its base: pack the base's folder beside"),
        open_source(tmp_path / "upload", tmp_path / "scratch", ArchiveLimits()),
    ):
        pass
