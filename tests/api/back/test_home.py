"""The home folder belongs to its user alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from api.back.home import make_private, only_user, worker_id
from api.back.settings import BackSettings
from api.errors import ServerFault


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """As an earlier release left it."""
    home = tmp_path / "home"
    for name in ("blobs/ab", "logs", "triton/repository"):
        (home / name).mkdir(parents=True)
    for file, mode in (
        ("lmaas.db", 0o644),
        ("blobs/ab/abc", 0o664),
        ("logs/triton.log", 0o600),
        ("lock", 0o666),
    ):
        (home / file).touch()
        (home / file).chmod(mode)
    (home / "triton" / "stub").touch(0o755)
    (home / "triton" / "repository" / "link").symlink_to(home / "blobs" / "ab" / "abc")
    for folder in (home, *(path for path in home.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    return home


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_an_open_home_is_closed(home: Path) -> None:
    closed = (home / "logs" / "triton.log").stat().st_ctime_ns
    make_private(home)
    for path in (home, *home.rglob("*")):
        if not path.is_symlink():
            assert mode(path) == (0o700 if path.is_dir() or path.name == "stub" else 0o600), path
    assert (home / "logs" / "triton.log").stat().st_ctime_ns == closed  # it is not touched


def test_what_is_not_ours_is_left_alone(home: Path) -> None:
    (home / "thesis.txt").touch()
    (home / "thesis.txt").chmod(0o644)
    make_private(home)
    assert (mode(home), mode(home / "thesis.txt")) == (0o755, 0o644)
    assert (mode(home / "lmaas.db"), mode(home / "blobs")) == (0o600, 0o700)


def test_a_worker_keeps_its_name_from_run_to_run(home: Path, tmp_path: Path) -> None:
    name = worker_id(BackSettings(home=home))
    assert worker_id(BackSettings(home=home)) == name
    other = tmp_path / "other"
    other.mkdir()
    assert worker_id(BackSettings(home=other)) not in (name, "")


def test_one_user_at_a_time(home: Path) -> None:
    settings = BackSettings(home=home)
    with only_user(settings), pytest.raises(ServerFault, match="in use by process"), only_user(settings):
        pass
