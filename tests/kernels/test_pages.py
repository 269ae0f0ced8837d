"""Mappings of a file: resident pages go, contents stay, and what was written is never lost."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import pytest

from kernels.pages import give_back

SIZE = 64 * mmap.PAGESIZE


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "weights"
    file.write_bytes(bytes(range(256)) * (SIZE // 256))
    return file


@pytest.fixture
def mapped(weights: Path) -> Callable[[], mmap.mmap]:
    def mapping() -> mmap.mmap:
        with weights.open("rb") as file:
            found = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        assert sum(found[:: mmap.PAGESIZE]) == 0  # every page is touched
        return found

    return mapping


def resident(file: Path) -> int:
    """Bytes of mappings of the file that are in memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text("utf-8", "surrogateescape").splitlines():
        if "-" in line.split(" ")[0]:
            inside = line.endswith(f" {file}")
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_what_was_only_read_is_let_go_and_reads_the_same(
    weights: Path, mapped: Callable[[], mmap.mmap]
) -> None:
    mapping = mapped()
    assert resident(weights) == SIZE
    give_back([weights.parent / "." / "weights"])
    assert resident(weights) == 0
    assert mapping[:] == weights.read_bytes()


def test_what_was_written_stays(weights: Path, mapped: Callable[[], mmap.mmap]) -> None:
    mapping = mapped()
    mapping[5] = 77
    give_back([weights])
    assert mapping[5] == 77
    assert resident(weights) == SIZE


def test_other_files_are_left_alone(weights: Path, mapped: Callable[[], mmap.mmap], tmp_path: Path) -> None:
    mapping = mapped()
    give_back([tmp_path / "other"])
    assert resident(weights) == SIZE
    assert len(mapping) == SIZE
