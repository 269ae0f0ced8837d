"""A tiny language model in fp32 and fp16."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.contract import Variant
from tests.export.checkpoints import save_lm


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from export.pipeline import export_checkpoint

    folder = tmp_path_factory.mktemp("gpu")
    (folder / "checkpoint").mkdir()
    save_lm(folder / "checkpoint")
    export_checkpoint(
        folder / "checkpoint", folder / "artifact", name="tiny", variants=[Variant.FP32, Variant.FP16]
    )
    return folder / "artifact"
