"""One real tritonserver process without models: begun, ended, and the reason where it does not begin."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from api.back.cluster.cleanup import python_backends, remove_environments
from api.back.cluster.installation import Installation, assemble_backends
from api.back.cluster.local_triton import LocalTriton
from api.back.cluster.metrics import engine_fallback
from api.back.cluster.repository import ModelRepository
from api.back.cluster.server_home import HOST, SHARED_MEMORY, Ports, ServerHome, shared_memory_prefix
from api.back.cluster.triton_client import TritonClient
from api.back.cluster.triton_process import PortTaken, TritonProcess
from api.back.settings import BackSettings
from api.errors import ApiError, ServerFault, Unavailable
from kernels.library import level, missing
from runtime.contract import Device
from tests.api.back.cluster.requests import processes
from tests.api.back.conftest import AWKWARD_NAME

pytestmark = pytest.mark.anyio
# A backend of this test alone: it ends its process where its model is named so.
BACKEND = """
import os
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        self.family = pb_utils.MetricFamily(
            name="lmaas_engine_fallback_timestamp_seconds", description="", kind=pb_utils.MetricFamily.GAUGE
        )
        self.metrics = []
        for second, reason in enumerate(["", 'no "plan", {1} in C:\\\\plans']):
            labels = {"model": "sound", "version": "1", "reason": reason}
            self.metrics.append(self.family.Metric(labels=labels))
            self.metrics[-1].set(1795000000 + second)
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
    settings = BackSettings(home=tmp_path / AWKWARD_NAME)
    repository = ServerHome(settings).repository
    for name in ("sound", "broken", "fatal"):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text('backend: "trivial"\n')
    assemble_backends(settings, Installation.find(), source.parent)
    return settings


def driver_of(settings: BackSettings) -> LocalTriton:
    home = ServerHome(settings)
    repository = ModelRepository(home.repository, settings, models=None)  # type: ignore[arg-type]
    return LocalTriton(home, Installation.find(), repository)


@pytest.fixture
async def triton(prepared: BackSettings) -> AsyncIterator[LocalTriton]:
    driver = driver_of(prepared)
    await driver.start(30)
    yield driver
    await driver.stop()


def client(triton: LocalTriton) -> TritonClient:
    return TritonClient(triton.endpoints.grpc, triton.key)


async def test_it_serves_and_leaves_nothing(prepared: BackSettings, triton: LocalTriton) -> None:
    server = client(triton)
    await server.load("sound", 30)
    assert len(triton.stub_pids(("sound", 1))) == 1
    assert await triton.model_runs(("sound", 1))
    assert psutil.Process(triton.pid).name() == "tritonserver"
    assert len(processes(prepared)) == 3
    assert not [process for process in processes(prepared) if triton.key in " ".join(process.cmdline())]
    # Triton's gRPC and its metrics, and no HTTP.
    connections = psutil.Process(triton.pid).net_connections("tcp")
    listening = {item.laddr.port for item in connections if item.status == psutil.CONN_LISTEN}
    addresses = (triton.endpoints.grpc, triton.endpoints.metrics)
    assert {f"{HOST}:{port}" for port in listening} == set(addresses)
    assert triton.endpoints.http is None
    await server.close()
    await triton.stop()
    assert triton.pid is None
    assert triton.key not in ServerHome(prepared).log.read_text()
    assert processes(prepared) == []
    assert list(SHARED_MEMORY.glob(f"{shared_memory_prefix(prepared)}*")) == []


@pytest.mark.parametrize(
    ("model", "error", "reason"),
    [
        ("broken", ServerFault, "^ValueError: this model is broken$"),
        ("fatal", Unavailable, "^its process ended, or had no processor for a second, while it loaded$"),
    ],
)
async def test_a_model_that_does_not_load_says_why(
    triton: LocalTriton, model: str, error: type[ApiError], reason: str
) -> None:
    server = client(triton)
    with pytest.raises(error, match=reason):
        await server.load(model, 30)
    assert await server.live(5)
    await server.close()


async def test_what_a_model_says_of_its_load_is_read_from_its_metrics(triton: LocalTriton) -> None:
    server, address = client(triton), triton.endpoints.metrics
    assert await engine_fallback(address, "sound", 1) is None
    await server.load("sound", 30)
    assert await engine_fallback(address, "sound", 1) == 'no "plan", {1} in C:\\plans'
    assert await engine_fallback(address, "sound", 2) is None
    await server.close()


async def test_unloading_gives_the_process_back(triton: LocalTriton) -> None:
    server = client(triton)
    await server.load("sound", 30)
    await server.unload("sound", 30)
    await triton.await_model_end(("sound", 1), 30)
    assert not await triton.model_runs(("sound", 1))
    await server.close()


async def test_the_end_of_a_model_and_of_the_server_are_events(triton: LocalTriton) -> None:
    server, sound = client(triton), ("sound", 1)
    await server.load("sound", 30)
    assert set(triton.cpu_seconds(sound)) == set(triton.stub_pids(sound))
    assert set(triton.cpu_seconds(("absent", 1))) == {triton.pid}
    async with triton.watch_model(sound) as ended:
        assert not ended.is_set()
        await triton.end_model(sound)
        await asyncio.wait_for(ended.wait(), 30)
    died, pid = asyncio.create_task(triton.died()), triton.pid
    await triton.kill()
    assert await asyncio.wait_for(died, 30) == f"process {pid} ended with status -9"
    await server.close()


async def test_it_reports_its_machine(triton: LocalTriton) -> None:
    found = await triton.capabilities()
    assert (found.machine, found.device) == (socket.gethostname(), Device.CPU)
    assert found.has_kernels is (missing() is None)
    assert triton.kernels == (level() or "onnxruntime")
    assert found.free_memory is not None
    assert found.free_memory > 0


@pytest.mark.parametrize("service", ["http", "metrics"])  # opened in the middle, and last
async def test_a_taken_port_is_the_reason_it_gives(prepared: BackSettings, service: str) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        home = ServerHome(prepared)
        ports = dataclasses.replace(Ports.choose(home), **{service: taken.getsockname()[1]})
        with pytest.raises(PortTaken, match="already in use"):
            await TritonProcess.start(home, Installation.find(), ports)
    assert processes(prepared) == []


async def test_a_port_taken_meanwhile_is_replaced_by_a_free_one(prepared: BackSettings) -> None:
    server = driver_of(prepared)
    with socket.create_server((HOST, int(server.endpoints.metrics.rpartition(":")[2]))):
        await server.start(30)
        assert server.pid is not None
        await server.stop()


async def test_a_fixed_port_taken_meanwhile_ends_the_start(prepared: BackSettings) -> None:
    free = Ports.choose(ServerHome(prepared))
    fixed = dataclasses.replace(prepared, triton_grpc_port=free.grpc, triton_metrics_port=free.metrics)
    with socket.create_server((HOST, free.metrics)):
        server = driver_of(fixed)
        with pytest.raises(PortTaken, match="already in use"):
            await server.start(30)


async def test_a_living_server_keeps_its_environment(triton: LocalTriton, tmp_path: Path) -> None:
    server = client(triton)
    await server.load("sound", 30)
    await server.close()
    begun = psutil.Process(triton.pid).create_time()
    assert begun in python_backends()
    folder, full = tmp_path / "python_env_empty", tmp_path / "python_env_full"
    (full / "lib").mkdir(parents=True)
    folder.mkdir()
    remove_environments(tmp_path, [begun])
    assert folder.exists()
    remove_environments(tmp_path, [time.time() + 1])
    assert (folder.exists(), full.exists()) == (False, True)


def test_settings_choose_the_ports(tmp_path: Path) -> None:
    fixed = BackSettings(home=tmp_path, triton_http_port=4001, triton_metrics_port=4003)
    ports = Ports.choose(ServerHome(fixed))
    assert (ports.http, ports.metrics) == (4001, 4003)
    assert 0 < ports.grpc < 65536
    third = Ports.choose(ServerHome(fixed, 2))
    assert (third.http, third.metrics) == (4021, 4023)
    assert Ports.choose(ServerHome(BackSettings(home=tmp_path))).http is None
    free = Ports.choose(ServerHome(BackSettings(home=tmp_path, triton_http_port=0)))
    assert 0 < (free.http or 0) < 65536
