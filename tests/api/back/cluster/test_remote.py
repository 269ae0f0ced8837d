"""A Triton elsewhere, reached by its address: it is used, dies, comes back on its port, and heals."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.back.backend import Backend
from api.back.cluster.addresses import Endpoints, parse_address
from api.back.cluster.installation import Installation, assemble_backends
from api.back.cluster.records import ServerState
from api.back.cluster.remote_triton import RemoteTriton
from api.back.cluster.server_home import Ports, ServerHome
from api.back.cluster.shared_repository import SharedRepository
from api.back.cluster.triton_process import TritonProcess
from api.back.settings import BackSettings
from api.back.store.records import DeploymentState
from api.errors import ServerFault
from runtime.contract import Device, Variant
from tests.api.back.cluster.requests import complete, language_model, until
from tests.api.back.stores import Stores, open_stores
from tests.e2e.appliance import free_port

pytestmark = pytest.mark.anyio
KEY = "the key of this test"
SECONDS = 60.0


@dataclasses.dataclass
class Elsewhere:
    """A Triton that no façade started."""

    home: ServerHome
    ports: Ports
    process: TritonProcess | None = None

    async def start(self) -> None:
        self.process = await TritonProcess.start(self.home, Installation.find(), self.ports, key=KEY)

    async def die(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        await self.process.kill()

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.ports.grpc}?metrics={self.ports.metrics}"


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncIterator[Elsewhere]:
    settings = BackSettings(home=tmp_path / "elsewhere")
    assemble_backends(settings, Installation.find())
    made = Elsewhere(ServerHome(settings), Ports(None, free_port(), free_port()))
    made.home.repository.mkdir(parents=True)
    await made.start()
    yield made
    if made.process is not None:
        await made.process.kill()


async def test_it_serves_dies_and_comes_back(cluster_settings: BackSettings, elsewhere: Elsewhere) -> None:
    settings = dataclasses.replace(
        cluster_settings,
        servers=0,
        triton_urls=(elsewhere.url,),
        triton_repository=str(elsewhere.home.repository),
        triton_key=KEY,
        retry_seconds=SECONDS,
    )
    async with Backend.open(settings) as backend:
        record = await backend.cluster.deploy("tiny", 1, "auto")
        address = f"127.0.0.1:{elsewhere.ports.grpc}"
        assert record.servers == {address: DeploymentState.READY}
        expected = await complete(backend, language_model(backend))
        assert not any(path.is_symlink() for path in elsewhere.home.repository.rglob("*"))
        (server,) = backend.cluster.servers()
        assert (server.name, server.state, server.pid) == (address, ServerState.READY, None)
        (driver,) = [each.driver for each in backend.cluster._pool.servers]
        found = await driver.capabilities()
        assert (found.machine, found.device, found.has_kernels) == ("127.0.0.1", Device.CPU, False)
        while (free := (await driver.capabilities()).free_memory) is None:  # noqa: ASYNC110 - as Triton measures
            await asyncio.sleep(0.1)
        assert free > 0

        assert elsewhere.process is not None
        waiting = [
            asyncio.create_task(complete(backend, language_model(backend), stream=False)) for _ in range(4)
        ]
        await elsewhere.die()
        # It is dead only for a moment: it is looked for at once.
        await until(lambda: backend.cluster.servers()[0].state is not ServerState.READY, "its death", SECONDS)
        await elsewhere.start()
        assert {await task for task in waiting} == {expected}
        await until(lambda: backend.cluster.readiness().ready, "healed", SECONDS)
        assert await complete(backend, language_model(backend)) == expected
        assert backend.cluster.servers()[0].restarts >= 1
        await backend.cluster.undeploy(record.id)
    assert list(elsewhere.home.repository.glob("[!.]*")) == []
    assert elsewhere.process.running  # it is not this façade's to end


async def test_where_none_answers_the_start_says_so(tmp_path: Path) -> None:
    endpoints = Endpoints(f"127.0.0.1:{free_port()}", None, f"127.0.0.1:{free_port()}")
    driver = RemoteTriton(endpoints, KEY, Device.CPU, None)  # type: ignore[arg-type]
    with pytest.raises(ServerFault, match=f"no Triton answers at {endpoints.grpc} within 0.5 s"):
        await driver.start(0.5)
    assert (await driver.capabilities()).free_memory is None


def repository(stores: Stores, root: Path, facade: str) -> SharedRepository:
    return SharedRepository(root, stores.settings, stores.models, facade)


async def test_facades_that_share_a_folder_leave_each_other_what_they_use(
    converted_home: Path, tmp_path: Path
) -> None:
    async with open_stores(BackSettings(home=converted_home)) as stores:
        root = tmp_path / "shared"
        one, other = repository(stores, root, "one"), repository(stores, root, "other")
        one.clear()
        first = await stores.models.version("tiny", 1)
        assert first.manifest is not None
        for each in (one, other):
            await each.lay_out(first, first.manifest, Variant.INT8)
        folder = root / "tiny" / "1"
        inode = folder.stat().st_ino
        other.clear()  # it starts again, and lays out what it finds in the records
        await other.lay_out(first, first.manifest, Variant.INT8)
        assert folder.stat().st_ino == inode  # nothing that Triton would load again
        assert one.remove("tiny", 1)  # a load follows, which changes nothing
        assert folder.is_dir()
        other.keep(set())  # laid out just now: another façade may be about to record it
        assert folder.is_dir()
        await other.lay_out(first, first.manifest, Variant.FP32)
        assert (folder / "fp32" / "model.onnx").is_file()
        assert not (folder / "int8").exists()
        assert not other.remove("tiny", 1)  # it was the last one: an unload follows
        assert list(root.glob("[!.]*")) == []
        await one.lay_out(first, first.manifest, Variant.INT8)
        os.utime(folder, (0, 0))
        one.keep({("tiny", 1)})
        assert folder.is_dir()
        one.keep({("tiny", 2)})
        assert not folder.exists()


def test_addresses() -> None:
    assert parse_address("grpc://a.b:8001") == Endpoints("a.b:8001", None, "a.b:8002")
    assert parse_address("grpc://[::1]:8001?metrics=9") == Endpoints("[::1]:8001", None, "[::1]:9")
    for wrong in ("http://a:1", "grpc://a", "a:8001", "grpc://a:1/x", "grpc://a:1?metrics=x", "grpc://a:x"):
        with pytest.raises(ValueError, match=r"address|metrics|Port"):
            parse_address(wrong)
