"""The processors of a container, as control groups of version 2 say."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from kernels import processors
from kernels.processors import usable_cores
from runtime import session


@pytest.mark.parametrize(
    ("content", "cores"),
    [
        ("max 100000", 8),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("200000 50000", 4),
        ("", 8),
    ],
)
def test_a_quota_bounds_them(
    content: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.processors.os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(processors, "CPU_MAX", tmp_path / "cpu.max")
    assert usable_cores() == 8
    (tmp_path / "cpu.max").write_text(content)
    assert usable_cores() == cores


def test_an_engine_has_no_more_threads_than_its_container_has_processors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[int] = []

    def open_graph(graph: Path, options: onnxruntime.SessionOptions) -> None:
        asked.append(options.intra_op_num_threads)

    monkeypatch.setattr(session, "open_graph", open_graph)
    monkeypatch.setattr(session, "usable_cores", lambda: 3)
    for threads in (2, 4):
        session.open_session(tmp_path, threads)
    assert asked == [2, 3]
