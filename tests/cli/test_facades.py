"""What keeps several façades running. Each is a small script here, and a real one in tests/e2e."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from api.config import Settings
from cli import facades, start_checks
from cli.facades import Facades, serve_several
from cli.member import environment
from cli.start_checks import Checked, listen
from lmaas import app
from tests.api.asgi import until
from tests.e2e.appliance import free_port

DATABASE = "postgresql://lmaas@/lmaas"
FACADE = """
import json, os, signal, sys
name = os.path.basename(os.environ["LMAAS_HOME"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
serving = {"deployments": ["tiny"], "not_imported": [], "kernels": ["avx2"]}
if name == "facade-1":
    serving["not_imported"].append("facade-1: broken")
print("a library speaks", flush=True)
print(json.dumps({"stage": "ready", "message": f"process {os.getpid()}", "serving": serving}), flush=True)
while True:
    signal.pause()
"""
BROKEN = "import sys; sys.exit(3)"
STUBBORN = FACADE.replace("sys.exit(0)", "None")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, port=0, facades=2, database_url=SecretStr(DATABASE))


@pytest.fixture
def keep(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Facades]]:
    """Façades whose program is what is given."""
    sockets: list[socket.socket] = []

    def make(program: str) -> Facades:
        script = tmp_path / "facade.py"
        script.write_text(program)
        monkeypatch.setattr(facades, "LMAAS", script)
        sockets.extend(listen(settings) for _ in range(3))
        return Facades(Checked(settings, sockets, has_keys=False))

    yield make
    for each in sockets:
        each.close()


async def pids(text: Callable[[], str], name: str, count: int) -> list[int]:
    """Of the processes that a façade has had, once it has had this number of them."""

    def found() -> list[int]:
        lines = [line for line in text().splitlines() if f"{name}: process" in line]
        return [int(line.rpartition(" ")[2]) for line in lines]

    await until(lambda: len(found()) == count)
    return found()


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """All that was printed so far."""
    seen: list[str] = []

    def read() -> str:
        seen.append(capsys.readouterr().out)
        return "".join(seen)

    return read


def test_one_that_was_killed_starts_again_and_all_end_with_0(
    keep: Callable[[str], Facades], printed: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    kept = keep(FACADE)
    own = [listener.getsockname()[1] for listener in kept._listeners[1:]]

    async def test() -> int:
        running = asyncio.create_task(kept.run())
        await pids(printed, "facade-1", 1)
        (pid,) = await pids(printed, "facade-2", 1)
        os.kill(pid, signal.SIGKILL)
        assert (await pids(printed, "facade-2", 2))[1] != pid
        os.kill(os.getpid(), signal.SIGTERM)
        return await running

    assert asyncio.run(asyncio.wait_for(test(), 30)) == 0
    assert "facade-2 ended with status 137; it starts again in 0 s" in caplog.text
    assert "a library speaks" in caplog.text
    assert printed().count("LMaaS is ready") == 1
    assert "  facade-1: broken\n" in printed()
    assert all(f"  metrics  http://127.0.0.1:{port}/metrics\n" in printed() for port in own)


def test_one_that_never_gets_ready_ends_all(keep: Callable[[str], Facades]) -> None:
    assert asyncio.run(asyncio.wait_for(keep(BROKEN).run(), 30)) == 1


def test_a_second_signal_does_not_wait_for_the_drain(
    keep: Callable[[str], Facades], printed: Callable[[], str]
) -> None:
    kept = keep(STUBBORN)

    async def test() -> int:
        running = asyncio.create_task(kept.run())
        await pids(printed, "facade-1", 1)
        await pids(printed, "facade-2", 1)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0)
        return await running

    assert asyncio.run(asyncio.wait_for(test(), 30)) == 1


def test_none_outlives_the_process_that_started_it(tmp_path: Path) -> None:
    script = tmp_path / "facade.py"
    script.write_text(FACADE)
    starter = f"""
import asyncio, pathlib
from api.config import Settings
from cli import facades
from cli.start_checks import Checked, listen
facades.LMAAS = pathlib.Path({str(script)!r})
settings = Settings(port=0, facades=2, database_url={DATABASE!r})
asyncio.run(facades.Facades(Checked(settings, [listen(settings) for _ in range(3)], False)).run())
"""
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "LMaaS is ready" not in process.stdout.readline():
            pass
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert len(family) == 4  # two façades, and a guard each
    assert psutil.wait_procs(family, timeout=10)[1] == []


def test_each_has_its_own_home_and_ports_and_the_first_imports(settings: Settings) -> None:
    fixed = settings.model_copy(update={"servers": 3, "triton_grpc_port": 9001})
    first, second = environment(fixed, 1), environment(fixed, 2)
    assert Path(first["LMAAS_HOME"]) == settings.home / "facade-1"
    assert (first["LMAAS_TRITON_GRPC_PORT"], second["LMAAS_TRITON_GRPC_PORT"]) == ("9001", "9031")
    assert (first.get("LMAAS_MODELS"), second["LMAAS_MODELS"]) == (os.environ.get("LMAAS_MODELS"), os.devnull)
    assert (second["LMAAS_FACADES"], second.get("LMAAS_TRITON_HTTP_PORT")) == ("1", None)


def test_each_has_its_own_gpus(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    pairs = settings.model_copy(update={"servers": 2, "device": "cuda"})
    found = [environment(pairs, number)["CUDA_VISIBLE_DEVICES"] for number in (1, 2)]
    assert found == ["4,5", "6,7"]


def test_without_a_shared_database_it_says_what_to_set() -> None:
    refused = CliRunner(env={"LMAAS_DATABASE_URL": ""}).invoke(app, ["up", "--facades", "2"])
    assert refused.exit_code == 1
    assert refused.stderr.startswith("lmaas: LMAAS_DATABASE_URL: LMAAS_FACADES is 2")


def test_every_facade_needs_a_port_of_its_own(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start_checks, "find_problems", lambda settings: [])
    monkeypatch.setattr(start_checks, "_keys", lambda settings: ([], None))
    monkeypatch.setattr(facades, "configure_logging", lambda settings: None)
    assert serve_several(settings.model_copy(update={"port": 65534})) == 1
    assert "facade-2 would have port 65536 for itself" in capsys.readouterr().err
    port = free_port()
    with start_checks.listen(settings.model_copy(update={"port": port + 1})) as taken:
        taken.listen()
        assert serve_several(settings.model_copy(update={"port": port})) == 1
    assert f"127.0.0.1:{port + 1} is taken" in capsys.readouterr().err
