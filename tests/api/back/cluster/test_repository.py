"""What Triton reads, changed where the disk is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from api.back.cluster.repository import ModelRepository, config_text
from api.back.cluster.shared_repository import SharedRepository
from api.back.settings import BackSettings
from runtime.contract import ENGINE_FILE, Kind


@pytest.mark.parametrize("kind", list(Kind))
def test_triton_starts_one_instance_however_many_gpus_it_sees(kind: Kind) -> None:
    config = text_format.Parse(config_text(kind), model_config_pb2.ModelConfig())
    (group,) = config.instance_group
    assert (group.kind, group.count) == (group.KIND_CPU, 1)


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


def test_what_a_facade_that_died_used_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    repository = SharedRepository(root, BackSettings(home=tmp_path), None, "one")  # type: ignore[arg-type]
    marks = root / ".users" / "tiny-1"

    def use() -> None:
        (root / "tiny" / "1").mkdir(parents=True, exist_ok=True)
        marks.mkdir(parents=True, exist_ok=True)
        for facade in ("one", "replaced"):
            (marks / facade).touch()
            os.utime(marks / facade, (1, 1))

    for living, loads in ((None, True), ({"one", "replaced"}, True), ({"one"}, False)):
        use()
        repository.facades = None if living is None else frozenset(living)
        assert repository.remove("tiny", 1) is loads
        assert (root / "tiny" / "1").exists() is loads
    assert not marks.exists()
    use()
    (marks / "starts").touch()
    assert repository.remove("tiny", 1), "it has no lease yet"
