"""What Triton reads, changed where the disk is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from api.back.cluster.repository import ModelRepository
from api.back.settings import BackSettings
from runtime.contract import ENGINE_FILE


def full(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_version_is_marked_for_a_reload_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BackSettings(home=tmp_path)
    root = tmp_path / "repository"
    engine = root / "tiny" / "1" / ENGINE_FILE
    engine.parent.mkdir(parents=True)
    engine.write_text("{}")
    os.utime(engine, (1, 1))
    repository = ModelRepository(root, settings, models=None)  # type: ignore[arg-type]
    monkeypatch.setattr("io.open", full)
    monkeypatch.setattr("os.open", full)
    monkeypatch.setattr("os.replace", full)
    repository.touch("tiny", 1)
    assert engine.stat().st_mtime > 1
