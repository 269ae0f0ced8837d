"""What `lmaas up` says before it serves."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.config import Settings
from cli import serving, start_checks
from cli.start_display import Serving, StartDisplay
from lmaas import app


@pytest.fixture
def up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """`lmaas up` without its event loop: the status, and what it says before it serves."""

    def start(host: str, **settings: Any) -> tuple[int, str]:
        said: list[str] = []

        def run(serve: Coroutine[Any, Any, None]) -> None:
            serve.close()
            said.append(capsys.readouterr().err)

        monkeypatch.setattr("uvloop.run", run)
        monkeypatch.setattr(start_checks, "find_problems", lambda settings: [])
        monkeypatch.setattr(serving, "configure_logging", lambda settings, facade: None)
        with start_checks.listen(Settings(host=host, port=0)) as listener:
            monkeypatch.setattr(serving, "listen", lambda settings: listener)
            status = serving.serve(Settings(host=host, port=0, home=tmp_path, **settings))
        return status, said[0] if said else capsys.readouterr().err

    return start


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_on_loopback_it_starts_without_a_key(up: Callable[..., tuple[int, str]], host: str) -> None:
    assert up(host) == (0, "")


@pytest.mark.parametrize("access", ["auto", "keys"])
def test_elsewhere_it_does_not_start_without_a_key(
    up: Callable[..., tuple[int, str]], tmp_path: Path, access: str
) -> None:
    status, said = up("0.0.0.0", access=access)
    assert (status, said.count("\n")) == (1, 1)
    assert "`lmaas keys create NAME`" in said
    assert "LMAAS_ACCESS" in said
    assert list(tmp_path.iterdir()) == []


def test_elsewhere_it_starts_with_a_key(
    up: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMAAS_HOME", str(tmp_path))
    runner = CliRunner()
    made = runner.invoke(app, ["keys", "create", "me", "--json"])
    assert made.exit_code == 0, made.output
    assert up("0.0.0.0") == (0, "")
    assert runner.invoke(app, ["keys", "revoke", json.loads(made.stdout)["id"]]).exit_code == 0
    assert up("0.0.0.0")[0] == 1


def test_an_open_server_elsewhere_is_warned_of(up: Callable[..., tuple[int, str]]) -> None:
    status, said = up("0.0.0.0", access="open")
    assert (status, said.count("\n")) == (0, 1)
    assert "no loopback address" in said


@pytest.mark.parametrize(
    ("address", "needed"),
    [
        ("::1", False),
        ("[::1]", False),
        ("127.8.0.1", False),
        ("192.0.2.1", True),
        ("::", True),
        ("lab", True),
    ],
)
def test_every_kind_of_address(address: str, needed: bool) -> None:
    assert (start_checks._without_keys(Settings(host=address), []) is not None) is needed


@pytest.mark.parametrize("keyed", [False, True])
def test_the_command_to_try_sends_a_key_where_one_is_needed(keyed: bool) -> None:
    display = StartDisplay("http://h:1", silent=True, keyed=keyed)
    banner = display.banner(Serving(["mini-lm version 1, int8, ready"], [], ["avx2"]))
    assert ('-H "authorization: Bearer $LMAAS_API_KEY"' in banner) is keyed
    assert "\n  kernels  avx2\n" in banner
