"""The processors of a container or a service, as control groups say."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from kernels import processors
from kernels.processors import usable_cores
from runtime import session


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the control groups, without any; there are eight processors."""
    monkeypatch.setattr("kernels.processors.os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(processors, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(processors, "OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("0::/\n")
    return tmp_path / "cgroup"


def write(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


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
def test_a_quota_bounds_them(groups: Path, content: str, cores: int) -> None:
    assert usable_cores() == 8
    write(groups / "cpu.max", content)
    assert usable_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("250000", 2), ("50000", 1), ("x", 8)])
@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct"])
def test_a_quota_of_version_1_bounds_them(groups: Path, controllers: str, quota: str, cores: int) -> None:
    processors.OWN_GROUPS.write_text(f"5:memory:/\n4:{controllers}:/docker/abc\n0::/\n")
    write(groups / controllers / "cpu.cfs_quota_us", quota)
    write(groups / controllers / "cpu.cfs_period_us", "100000")
    assert usable_cores() == cores


def test_the_groups_around_a_service_count(groups: Path) -> None:
    processors.OWN_GROUPS.write_text("0::/system.slice/lmaas.service\n")
    write(groups / "system.slice" / "lmaas.service" / "cpu.max", "600000 100000")
    assert usable_cores() == 6
    write(groups / "system.slice" / "cpu.max", "300000 100000")
    assert usable_cores() == 3


def test_a_system_without_control_groups(groups: Path) -> None:
    processors.OWN_GROUPS.unlink()
    assert usable_cores() == 8


def test_an_engine_has_no_more_threads_than_its_container_has_processors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[int] = []

    def open_graph(graph: Path, options: onnxruntime.SessionOptions) -> None:
        asked.append(options.intra_op_num_threads)

    monkeypatch.setattr(session, "open_graph", open_graph)
    monkeypatch.setattr(session, "usable_cores", lambda: 3)
    for threads in (2, 4, 0):
        session.open_session(tmp_path, threads)
    monkeypatch.setattr(session, "usable_cores", lambda: 64)
    for threads in (8, 0):
        session.open_session(tmp_path, threads)
    assert asked == [2, 3, 3, 8, 4]
