"""`lmaas store`, `backup` and `restore` on a home without a server: what the audit log has of them."""

from __future__ import annotations

import getpass
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lmaas import app


def lmaas(*arguments: str) -> str:
    ended = CliRunner().invoke(app, [*arguments])
    assert ended.exit_code == 0, ended.output
    return ended.output


def changes(home: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(home / "lmaas.db")) as database:
        rows = database.execute("SELECT actor, address, action, target, outcome FROM audit ORDER BY id")
        return rows.fetchall()


def test_the_audit_log_has_what_commands_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, account = tmp_path / "home", getpass.getuser()
    monkeypatch.setenv("LMAAS_HOME", str(home))
    lmaas("store", "fsck")
    unused = home / "blobs" / "ab" / ("ab" + "0" * 62)
    unused.parent.mkdir(parents=True)
    unused.write_bytes(b"unused")
    lmaas("store", "gc", "--grace-hours", "0", "--dry-run")
    assert changes(home) == []
    lmaas("store", "gc", "--grace-hours", "0")
    lmaas("store", "gc", "--grace-hours", "0")  # nothing is left
    assert not unused.exists()
    deleted = (account, "local", "store gc", "1 files", "done")
    assert changes(home) == [deleted]
    lmaas("backup", str(tmp_path / "backup.tar"))
    lmaas("restore", str(tmp_path / "backup.tar"), "--home", str(tmp_path / "other"))
    assert changes(tmp_path / "other") == [deleted, (account, "local", "restore", "backup.tar", "done")]
