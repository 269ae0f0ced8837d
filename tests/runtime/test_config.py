from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.config import EngineConfig, EngineSettings
from runtime.contract import ENGINE_FILE, Device, Variant
from runtime.cuda.accelerator import Accelerator, accelerator_of
from runtime.errors import ModelError


def test_all_but_the_variant_has_a_default(tmp_path: Path) -> None:
    (tmp_path / ENGINE_FILE).write_text('{"variant": "int8", "num_slots": 4}')
    assert EngineConfig.load(tmp_path) == EngineConfig(Variant.INT8, num_slots=4)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    settings = EngineSettings(device=Device.CUDA, plans="/plans", num_slots=7, threads=3)
    config = EngineConfig.of(settings, Variant.FP16)
    (tmp_path / ENGINE_FILE).write_text(config.to_json())
    assert EngineConfig.load(tmp_path) == config
    assert (config.num_slots, config.threads) == (7, 3)


def test_a_gpu_is_an_accelerator() -> None:
    assert accelerator_of(EngineConfig(Variant.INT8)) is None
    data = {"variant": "fp16", "device": "cuda"}
    config = EngineConfig.from_mapping(data)
    assert accelerator_of(config) == Accelerator()
    assert (config.most_prompt_tokens, EngineConfig(Variant.INT8).most_prompt_tokens) == (512, 128)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"variant": "int8", "slots": 4}, "slots"),
        ({"num_slots": 4}, "variant"),
        ({"variant": "int9"}, "int9"),
        ({"variant": ["int8"]}, "variant"),
        ({"variant": "int8", "threads": -1}, "threads"),
        ({"variant": "int8", "threads": 100_001}, "threads: a whole number from 0 to 100000"),
        ({"variant": "int8", "threads": "2"}, "threads"),
        ({"variant": "int8", "max_kv_tokens": -1}, "max_kv_tokens: a whole number from 0 to"),
        ({"variant": "int8", "step_timeout_seconds": 0}, "step_timeout_seconds: a whole number from 1 to"),
        ({"variant": "int8", "threads": True}, "threads"),
        ({"variant": "fp16", "device": "gpu"}, "device: 'gpu' is not one of cpu, cuda"),
        ({"variant": "fp32", "device": "cuda"}, "variant: fp32, but device cuda runs fp16 alone"),
        ({"variant": "int8", "plans": "/plans"}, "plans: a folder, for device cuda alone, not '/plans'"),
        ({"variant": "fp16", "device": "cuda", "plans": 1}, "plans: a folder"),
        ([], "object"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, data: Any, named: str) -> None:
    (tmp_path / ENGINE_FILE).write_text(json.dumps(data))
    with pytest.raises(ModelError, match=named):
        EngineConfig.load(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "\x00"])
def test_an_unreadable_file_is_an_error_with_its_name(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / ENGINE_FILE).write_text(content)
    with pytest.raises(ModelError, match=ENGINE_FILE):
        EngineConfig.load(tmp_path)
