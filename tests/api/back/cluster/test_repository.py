"""What a deployment's engine is told of the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.back.cluster.repository import LiveRepository
from api.back.settings import BackSettings
from api.back.store.models import ModelStore
from runtime.config import EngineConfig
from runtime.contract import Device, Variant


@pytest.mark.parametrize("tensorrt", [False, True])
def test_the_engine_reads_what_the_repository_writes(tmp_path: Path, tensorrt: bool) -> None:
    settings = BackSettings(home=tmp_path, device=Device.CUDA, tensorrt=tensorrt, num_slots=3)
    repository = LiveRepository(settings, ModelStore.__new__(ModelStore))
    config = EngineConfig.from_mapping(repository._engine(Variant.FP16))
    cache = str(tmp_path / "triton" / "tensorrt") if tensorrt else ""
    assert config == EngineConfig(Variant.FP16, Device.CUDA, cache, num_slots=3)
