"""`lmaas triton` serves a façade elsewhere; `lmaas health` says what an inference says; it drains."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from api.back.cluster import foreground_triton
from api.back.settings import BackSettings
from api.errors import ServerFault
from tests.e2e.appliance import foreign_variables, free_port, home_with, running
from tests.e2e.test_tasks import events
from tests.export.checkpoints import save_lm

STOP_SECONDS = 12.0  # the drain, and the end
DRAIN_SECONDS = 60.0  # more than streams need


class Elsewhere:
    """A running `lmaas triton`."""

    def __init__(self, process: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
        self.process = process
        self.environment = environment

    def health(self, *arguments: str, port: str = "") -> tuple[int, str]:
        """Status and output of `lmaas health`; `port` is a façade's."""
        ended = subprocess.run(
            [sys.executable, "-m", "lmaas", "health", *arguments],
            env={**self.environment, "LMAAS_PORT": port}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return ended.returncode, (ended.stdout + ended.stderr).strip()

    def kill_models(self) -> None:
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if "triton_python_backend_stub" in child.name() or "model.py" in " ".join(child.cmdline()):
                child.kill()

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        self.process.terminate()
        return self.process.wait(seconds)

    @property
    def settings_of_facade(self) -> dict[str, str]:
        grpc, metrics = (self.environment[f"LMAAS_TRITON_{port}_PORT"] for port in ("GRPC", "METRICS"))
        return {
            "servers": "0",
            "triton_key": self.environment["LMAAS_TRITON_KEY"],
            "triton_repository": self.environment["LMAAS_TRITON_REPOSITORY"],
            "triton_urls": f"grpc://127.0.0.1:{grpc}?metrics={metrics}",
        }


@contextmanager
def elsewhere(home: Path, repository: Path, drain_seconds: float = 6) -> Iterator[Elsewhere]:
    environment = foreign_variables() | {
        "LMAAS_HOME": str(home),
        "LMAAS_TRITON_REPOSITORY": str(repository),
        "LMAAS_TRITON_KEY": "a key of both",
        "LMAAS_TRITON_GRPC_PORT": str(free_port()),
        "LMAAS_TRITON_METRICS_PORT": str(free_port()),
        "LMAAS_DRAIN_SECONDS": str(drain_seconds),
    }
    with (home.parent / "triton.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lmaas", "triton"], env=environment, stdout=log, stderr=log
        )
    try:
        yield Elsewhere(process, environment)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_it_serves_a_facade(tmp_path: Path) -> None:
    save_lm(tmp_path / "bundled" / "tiny")
    with elsewhere(tmp_path / "triton", tmp_path / "repository") as triton:
        settings = {
            "models": str(tmp_path / "bundled"),
            "variants": "fp32",
            **triton.settings_of_facade,
        }
        with running(tmp_path / "facade", None, **settings) as appliance:
            body = {"prompt": "a", "max_tokens": 2, "ignore_eos": True}
            assert appliance.post("/v1/generate", body)["usage"]["completion_tokens"] == 2
            assert triton.health("--triton") == (0, "it serves")
            port = appliance.url.rpartition(":")[2]
            assert triton.health(port=port) == (0, "it serves")
        status, output = triton.health(port=port)
        assert status == 1
        assert f"http://127.0.0.1:{port}/health/serving" in output
        assert triton.health("--triton") == (0, "it serves")
        triton.kill_models()
        status, output = triton.health("--triton")
        assert status == 1
        assert "lmaas: tiny/1: " in output, output
        assert triton.stop() == 0
        assert triton.health("--triton")[0] == 1


def test_where_nothing_listens_health_says_so_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait longer than a test may take."""
    monkeypatch.setattr(foreground_triton, "HEALTH_SECONDS", 600.0)
    port = free_port()
    settings = BackSettings(home=tmp_path, triton_grpc_port=port)
    assert asyncio.run(foreground_triton.find_fault(settings)) == f"no Triton answers at 127.0.0.1:{port}"


def test_on_sigterm_streams_end_and_what_comes_meanwhile_disturbs_none(
    converted_home: Path, tmp_path: Path
) -> None:
    home = home_with(converted_home, tmp_path / "facade", "mini-lm")
    body = {"prompt": "a", "max_tokens": 450, "n": 16, "ignore_eos": True, "stream": True}
    with (
        elsewhere(tmp_path / "triton", tmp_path / "repository", DRAIN_SECONDS) as triton,
        running(home, None, retry_seconds="0", **triton.settings_of_facade) as appliance,
    ):
        with (
            ThreadPoolExecutor(1) as pool,
            appliance.http.stream("POST", "/v1/generate", json=body) as response,
        ):
            streamed = events(response)
            next(streamed)
            stopping = pool.submit(triton.stop, DRAIN_SECONDS)
            appliance.wait_for(lambda: not appliance.ready(), "unready")
            late = appliance.http.post("/v1/generate", json={"prompt": "a", "max_tokens": 1})
            reasons = [choice["finish_reason"] for event in streamed for choice in event["choices"]]
            assert stopping.result() == 0
        assert late.status_code == 503
        assert reasons.count("length") == 16


@pytest.mark.parametrize(
    ("key", "repository", "reason"),
    [
        ("", "repository", "LMAAS_TRITON_KEY is empty"),
        ("a", "", "LMAAS_TRITON_REPOSITORY is empty"),
        ("a", "/two words", "'/two words' may have letters"),
    ],
)
def test_what_it_needs_is_named(key: str, repository: str, reason: str, tmp_path: Path) -> None:
    settings = BackSettings(home=tmp_path / "home", triton_key=key, triton_repository=repository)
    with pytest.raises(ServerFault, match=reason):
        foreground_triton.serve_triton(settings, "127.0.0.1")
    assert not settings.triton.exists()
