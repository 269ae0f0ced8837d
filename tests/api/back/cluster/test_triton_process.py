"""One real tritonserver process without models: begun, ended, and the reason where it does not begin."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from api.back.cluster.installation import Installation
from api.back.cluster.server import ModelServer
from api.back.cluster.triton_process import (
    HOST,
    SHARED_MEMORY,
    Ports,
    TritonProcess,
    assemble_backends,
    shared_memory_prefix,
)
from api.back.settings import BackSettings
from api.errors import ServerFault
from tests.api.back.cluster.requests import processes

pytestmark = pytest.mark.anyio
# A backend of this test alone: it ends its process where its model is named so.
BACKEND = """
import os
class TritonPythonModel:
    def initialize(self, args):
        if args["model_name"] == "fatal":
            os._exit(1)
        if args["model_name"] == "broken":
            raise ValueError("this model is broken")
    def execute(self, requests):
        return []
"""


@pytest.fixture
def prepared(tmp_path: Path) -> BackSettings:
    source = tmp_path / "source" / "trivial"
    source.mkdir(parents=True)
    (source / "model.py").write_text(BACKEND)
    settings = BackSettings(home=tmp_path / "home")
    for name in ("sound", "broken", "fatal"):
        (settings.repository / name / "1").mkdir(parents=True)
        (settings.repository / name / "config.pbtxt").write_text('backend: "trivial"\n')
    assemble_backends(settings, Installation.find(), source.parent)
    return settings


@pytest.fixture
async def triton(prepared: BackSettings) -> AsyncIterator[TritonProcess]:
    started = await TritonProcess.start(prepared, Installation.find(), Ports.choose(prepared))
    yield started
    await started.stop()


async def test_it_serves_and_leaves_nothing(prepared: BackSettings, triton: TritonProcess) -> None:
    server = ModelServer(f"{HOST}:{triton.ports.grpc}")
    await server.load("sound", 30)
    assert len(triton.stub_pids("sound", 1)) == 1
    assert psutil.Process(triton.pid).name() == "tritonserver"
    assert len(processes(prepared)) == 3
    await server.close()
    await triton.stop()
    assert not triton.running
    assert processes(prepared) == []
    assert list(SHARED_MEMORY.glob(f"{shared_memory_prefix(prepared)}*")) == []


@pytest.mark.parametrize(
    ("model", "reason"),
    [("broken", "^ValueError: this model is broken$"), ("fatal", "^Stub process .* is not healthy")],
)
async def test_a_model_that_does_not_load_says_why(triton: TritonProcess, model: str, reason: str) -> None:
    server = ModelServer(f"{HOST}:{triton.ports.grpc}")
    with pytest.raises(ServerFault, match=reason):
        await server.load(model, 30)
    assert await server.live(5)
    await server.close()


async def test_unloading_gives_the_process_back(triton: TritonProcess) -> None:
    server = ModelServer(f"{HOST}:{triton.ports.grpc}")
    await server.load("sound", 30)
    await server.unload("sound", 30)
    triton.await_stub_end("sound", 1, 5)
    assert triton.stub_pids("sound", 1) == []
    await server.close()


async def test_a_taken_port_is_the_reason_it_gives(prepared: BackSettings) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        free = Ports.choose(prepared)
        with pytest.raises(ServerFault, match="already in use"):
            await TritonProcess.start(
                prepared, Installation.find(), Ports(taken.getsockname()[1], free.grpc, free.metrics)
            )
    assert processes(prepared) == []


def test_settings_choose_the_ports(tmp_path: Path) -> None:
    ports = Ports.choose(BackSettings(home=tmp_path, triton_http_port=4001, triton_metrics_port=4003))
    assert (ports.http, ports.metrics) == (4001, 4003)
    assert 0 < ports.grpc < 65536
