"""`lmaas keys` on the database of a home folder, beside a server and before its first start."""

from __future__ import annotations

import getpass
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from api.back.store.keys import make_key
from lmaas import app

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMAAS_HOME", str(tmp_path / "a new" / "home"))
    return tmp_path / "a new" / "home"


def keys(*arguments: str) -> Result:
    return RUNNER.invoke(app, ["keys", *arguments])


def listed() -> Any:
    return json.loads(keys("list", "--json").stdout)


def test_a_key_is_shown_once(home: Path) -> None:
    made = keys(
        "create", "a person", "--expires", "30d", "--models", "mini-lm, mini-nlu", "--max-queued", "3"
    )
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()  # nothing else is on standard output, for `$(lmaas keys create me)`
    (shown,) = listed()
    assert key.startswith(shown["id"] + "_")
    assert key.rpartition("_")[2] not in keys("list").output + keys("list", "--json").output
    assert (shown["name"], shown["state"]) == ("a person", "valid")
    assert shown["scopes"] == ["infer", "models:read", "tasks"]
    assert shown["limits"] == {"max_queued": 3, "models": ["mini-lm", "mini-nlu"]}
    assert (home / "lmaas.db").stat().st_mode & 0o077 == 0
    assert home.stat().st_mode & 0o077 == 0


def test_a_key_is_revoked() -> None:
    made = json.loads(keys("create", "me", "--scopes", "admin,infer", "--json").stdout)
    assert "models:write" in made["scopes"]
    revoked = keys("revoke", made["id"])
    assert (revoked.exit_code, revoked.stdout) == (0, f"{made['id']} (me) is revoked\n")
    assert [item["state"] for item in listed()] == ["revoked"]


def test_the_audit_log_has_both(home: Path) -> None:
    made = json.loads(keys("create", "me", "--json").stdout)
    keys("revoke", made["id"])
    keys("revoke", "lmaas_0")
    with closing(sqlite3.connect(home / "lmaas.db")) as database:
        rows = database.execute("SELECT actor, address, action, target, outcome FROM audit ORDER BY id")
        found = rows.fetchall()
    account = getpass.getuser()
    assert found == [
        (account, "local", "keys create", made["id"], "done"),
        (account, "local", "keys revoke", made["id"], "done"),
    ]


def test_the_list_is_for_people_too() -> None:
    assert "lmaas keys create" in keys("list").stdout
    keys("create", "me", "--scopes", "metrics", "--expires", "2999-01-31", "--tokens-per-minute", "1000")
    text = keys("list").stdout
    for part in ("me", "valid", "metrics", "tokens_per_minute 1000", "2999-01-31 00:00"):
        assert part in text


def test_a_key_of_a_file_is_created_and_not_shown(tmp_path: Path) -> None:
    key = make_key()
    file = tmp_path / "key"
    file.write_text(f"{key}\n")
    for _ in range(2):
        made = keys("create", "operator", "--scopes", "admin", "--key-file", str(file))
        assert (made.exit_code, made.stderr) == (0, "")
        assert made.stdout == f"{key[:18]} (operator) is valid\n"
    assert [(item["id"], item["name"]) for item in listed()] == [(key[:18], "operator")]
    file.write_text("secret")
    failed = keys("create", "operator", "--key-file", str(file))
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr.startswith("lmaas: key: a key has the form lmaas_")


def test_the_database_is_brought_up_to_date(home: Path) -> None:
    for _ in range(2):
        done = RUNNER.invoke(app, ["store", "migrate"])
        assert (done.exit_code, done.stderr) == (0, "")
        assert done.stdout == f"{home}/lmaas.db: it has the schema of this release\n"
    with closing(sqlite3.connect(home / "lmaas.db")) as database:
        assert database.execute("SELECT count(*) FROM tasks").fetchone() == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "me", "--scopes", "everything"), "--scopes: 'everything' is not one of infer"),
        (("create", "me", "--scopes", ","), "--scopes: name one or more"),
        (("create", "me", "--models", " "), "--models: name one or more"),
        (("create", "me", "--expires", "soon"), "--expires: 'soon' is neither"),
        (("create", "me", "--expires", "2020-01-01"), "expires: 2020-01-01 00:00:00 UTC has passed"),
        (("create", "a\x1bb"), "name: "),
        (("revoke", "lmaas_0"), "there is no key 'lmaas_0'"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    failed = keys(*arguments)
    assert (failed.exit_code, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
    assert failed.stderr.startswith(f"lmaas: {message}")


def test_a_bad_database_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMAAS_DATABASE_URL", "sqlite+aiosqlite:////nowhere/at/all.db")
    failed = keys("list")
    assert (failed.exit_code, failed.stderr.count("\n")) == (1, 1)
    assert "/nowhere" in failed.stderr
