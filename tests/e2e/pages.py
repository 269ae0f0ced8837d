"""The code of a page of docs/, as a reader pastes it, against a running appliance."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from lmaas import app
from tests.e2e.appliance import ROOT, foreign_variables

ADDRESS = "http://127.0.0.1:8080"
TOLERANCE = 0.05
VOLATILE = {"id", "timings"}  # of each answer alone
BEGIN = 'set -e\nlmaas() { "$PYTHON" -m lmaas "$@"; }\n'


def blocks(page: str, language: str) -> str:
    """All code of one language in docs/`page`.md, one block after the other."""
    return "".join(re.findall(rf"^```{language}\n(.*?)^```", _text(page), re.DOTALL | re.MULTILINE))


def shown(page: str, url: str) -> str:
    """The commands behind `$ ` of the page's console blocks, with the appliance's address."""
    lines = blocks(page, "console").splitlines()
    commands, continued = [], False
    for line in lines:
        if continued or line.startswith("$ "):
            commands.append(line.removeprefix("$ "))
            continued = line.endswith("\\")
    return "\n".join(commands).replace(ADDRESS, url) + "\n"


def _text(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text()


def environment(url: str) -> dict[str, str]:
    ours = {"LMAAS_URL": url, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "no_proxy": "127.0.0.1"}
    return foreign_variables() | ours


def paste(commands: str, folder: Path, url: str) -> str:
    """Run commands in `folder`, with the `lmaas` of this checkout; returns what they print."""
    ended = subprocess.run(
        ["bash", "-c", BEGIN + commands],
        cwd=folder,
        env=environment(url),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def lmaas(*arguments: str, status: int = 0, **settings: str) -> str:
    """Run `lmaas` in this process, which imports its packages only once, with LMAAS_ variables.

    Returns what it printed; where it was to fail, that is its standard error.
    """
    variables = {f"LMAAS_{name.upper()}": value for name, value in settings.items()}
    ended = CliRunner().invoke(app, [*arguments], env=variables | {"COLUMNS": "200"})
    assert ended.exit_code == status, f"{arguments}\n{ended.output}\n{ended.stderr}"
    return ended.stderr if status and ended.stderr else ended.stdout


def paste_here(commands: str, url: str) -> str:
    """Like `paste`, in this folder, but `lmaas` runs in this process."""
    printed = ""
    for command in re.split(r"(?<!\\)\n", commands.strip()):
        if command.startswith("lmaas "):
            printed += lmaas(*shlex.split(command)[1:], url=url)
        else:
            printed += paste(command, Path.cwd(), url)
    return printed


def alike(shown: Any, got: Any) -> bool:
    """Equal but for the last digits of numbers."""
    if isinstance(shown, float) and isinstance(got, float):
        return abs(shown - got) <= TOLERANCE
    if isinstance(shown, dict) and isinstance(got, dict):
        return shown.keys() == got.keys() and all(
            alike(shown[key], got[key]) for key in shown.keys() - VOLATILE
        )
    if isinstance(shown, list) and isinstance(got, list):
        if shown and isinstance(shown[0], dict) and "label" in shown[0]:
            # Labels of nearly the same score change places between processors.
            shown, got = (sorted(items, key=lambda item: str(item["label"])) for items in (shown, got))
        return len(shown) == len(got) and all(map(alike, shown, got))
    return bool(shown == got)
