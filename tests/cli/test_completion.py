"""What the shell offers, by the protocol of bash's completion."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lmaas import app

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9"
ANSWERS = {
    "/v1/models": [{"id": "mini-lm"}, {"id": "mini-nli"}, {"id": "spam"}],
    "/v1/deployments": [{"id": "dep-1", "model": "mini-lm"}, {"id": "dep-2", "model": "mini-lm"}],
}


class Appliance(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"data": ANSWERS[self.path]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """A test prints nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Appliance) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def offered(line: str, url: str) -> list[str]:
    """For the last word of `line`."""
    environment = {
        "_LMAAS_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
        "LMAAS_URL": url,
    }
    return CliRunner().invoke(app, [], prog_name="lmaas", env=environment).stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lmaas generate Once -m mini-", ["mini-lm", "mini-nli"]),
        ("lmaas models show s", ["spam"]),
        ("lmaas deploy mini-l", ["mini-lm"]),
        ("lmaas undeploy ", ["mini-lm", "dep-1", "dep-2"]),
        ("lmaas perf capacity dep", ["dep-1", "dep-2"]),
        ("lmaas mod", ["models"]),
    ],
)
def test_names_of_the_appliance_are_offered(url: str, line: str, expected: list[str]) -> None:
    assert offered(line, url) == expected


def test_the_appliance_of_the_line_is_asked(url: str) -> None:
    assert offered(f"lmaas models show --url {url} spa", NOWHERE) == ["spam"]


def test_without_an_appliance_nothing_is_offered() -> None:
    assert offered("lmaas models show mini-", NOWHERE) == []


def test_the_script_for_the_shell_is_shown() -> None:
    """The shell is found among the parents of the process."""
    command = f'"{sys.executable}" -m lmaas --show-completion; true'
    shown = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert "complete" in shown.stdout, shown.stderr
