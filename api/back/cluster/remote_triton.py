"""The driver of a Triton elsewhere, by address: in a pod, on a GPU machine. Other façades may share it.

Nothing here starts or ends it. "Start" is: it answers at its address. "It died" is: the connection broke, or
it did not answer twice. It loads models from a folder that it and this façade see (`SharedRepository`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import grpc
import httpx
from tritonclient.grpc import service_pb2, service_pb2_grpc

from api.back.cluster.addresses import Endpoints
from api.back.cluster.driver import Capabilities
from api.back.cluster.idle_timeout import IdleTimeout, wait_for
from api.back.cluster.records import ModelVersion
from api.back.cluster.repository import ModelRepository
from api.back.cluster.triton_client import CHANNEL_OPTIONS
from api.errors import ServerFault
from runtime.contract import Device

LIVE_SECONDS = 2.0  # between two questions whether it lives, and for the answer
LOST_ANSWERS = 2  # in a row, after which it counts as dead
METRICS_SECONDS = 2.0
MEMORY = re.compile(r"^nv_(cpu|gpu)_memory_(total|used)_bytes(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class RemoteTriton:
    """A `ServerDriver`. `key` is the one with which the server was started (`lmaas-key`)."""

    shared = True
    pid = None

    def __init__(self, endpoints: Endpoints, key: str, device: Device, repository: ModelRepository) -> None:
        self.name = endpoints.grpc
        self.endpoints = endpoints
        self.key = key
        self.repository = repository
        self._device = device
        self._given_up = asyncio.Event()

    @property
    def kernels(self) -> str | None:
        return None

    @property
    def leaving(self) -> bool:
        return False

    async def start(self, seconds: float) -> None:
        """Wait until it answers."""
        self._given_up = asyncio.Event()
        try:
            async with self._connected() as stub:
                await wait_for(self._answer(stub), IdleTimeout(seconds, seconds))
        except asyncio.TimeoutError:
            where = self.endpoints.grpc
            raise ServerFault(f"no Triton answers at {where} within {seconds:g} s") from None

    async def _answer(self, stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
        while not await _lives(stub):  # noqa: ASYNC110 - nothing says when it comes
            await asyncio.sleep(LIVE_SECONDS / 4)

    async def died(self) -> str:
        async with self._connected() as stub:
            lost = 0
            while not self._given_up.is_set():
                lost = 0 if await _lives(stub) else lost + 1
                if lost == LOST_ANSWERS:
                    return "it does not answer"
                broken = asyncio.ensure_future(self._broken())
                given_up = asyncio.ensure_future(self._given_up.wait())
                try:
                    await asyncio.wait(
                        {broken, given_up}, timeout=LIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED
                    )
                    if broken.done():
                        return "the connection to it broke"
                finally:
                    broken.cancel()
                    given_up.cancel()
        return "it was given up, and is connected anew"

    async def _broken(self) -> None:
        """Return when the connection that was there is not there any more."""
        await self._channel.wait_for_state_change(grpc.ChannelConnectivity.READY)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[service_pb2_grpc.GRPCInferenceServiceStub]:
        """A connection of its own: a restart breaks it, however soon the server is back."""
        address = self.endpoints.grpc
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as self._channel:
            yield service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def kill(self) -> None:
        """Give the connection up. The server is not ours to end."""
        self._given_up.set()

    async def stop(self) -> None:
        await self.kill()

    async def capabilities(self) -> Capabilities:
        """By the server's own metrics. Whether it has the kernels is unknown, and they only save memory."""
        host = self.endpoints.grpc.rpartition(":")[0]
        return Capabilities(host, self._device, await self._free_memory(), has_kernels=False)

    async def _free_memory(self) -> int | None:
        """Of the GPU, or of the machine as Triton sees it; None where it does not say."""
        kind = "gpu" if self._device is Device.CUDA else "cpu"
        with suppress(httpx.HTTPError):
            async with httpx.AsyncClient(trust_env=False, timeout=METRICS_SECONDS) as client:
                text = (await client.get(f"http://{self.endpoints.metrics}/metrics")).text
            found = {what: float(value) for which, what, value in MEMORY.findall(text) if which == kind}
            if found.get("total") and "used" in found:  # 0 until Triton has measured
                return int(found["total"] - found["used"])
        return None

    async def model_runs(self, version: ModelVersion) -> bool:
        """The probe alone knows."""
        return True

    @asynccontextmanager
    async def watch_model(self, version: ModelVersion) -> AsyncIterator[asyncio.Event]:
        """Never set: the end of a process elsewhere is seen by a probe."""
        yield asyncio.Event()

    async def end_model(self, version: ModelVersion) -> None:
        """Its process cannot be reached; the load that follows starts another one."""

    async def await_model_end(self, version: ModelVersion, seconds: float) -> None:
        """As `end_model`: Triton ends it by itself."""

    def cpu_seconds(self, version: ModelVersion) -> Mapping[int, float]:
        """Unknown: every timeout counts all seconds."""
        return {}


async def _lives(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> bool:
    try:
        await stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=LIVE_SECONDS)
    except grpc.aio.AioRpcError:
        return False
    return True
