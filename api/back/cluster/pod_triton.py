"""The driver of a Triton in a pod of Kubernetes. Its name is the pod's; a pod that is replaced keeps it.

Kubernetes starts pods and restarts their containers. This driver deletes a pod for which that does not help:
its containers run, Kubernetes does not find it ready, and Triton does not answer; or a replica asks for a
restart. The controller of the pod then makes another one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from api.back.cluster.addresses import Endpoints
from api.back.cluster.kubernetes_api import KubernetesApi, KubernetesFault
from api.back.cluster.pods import Pod, PodDirectory
from api.back.cluster.remote_triton import RemoteTriton
from api.back.cluster.repository import ModelRepository
from api.back.cluster.supervisor import RestartLimit
from api.errors import ServerFault
from runtime.contract import Device

LEAST_SECONDS = 1.0  # for the answer of a Triton whose pod came late
NOWHERE = Endpoints("0.0.0.0:0", None, "0.0.0.0:0")  # of a pod without an address yet

logger = logging.getLogger(__name__)


class PodReplacement:
    """Deletes pods, of the whole cluster no more than its limit allows: faults that last must not loop."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api
        self._limit = RestartLimit()

    async def replace(self, pod: Pod, reason: str) -> None:
        """Delete it, unless that was done to a pod only lately. It logs what goes wrong."""
        if not self._limit.allows(time.monotonic()):
            logger.warning("no pod is replaced again so soon: %s: %s", pod.name, reason)
            return
        logger.warning("replacing pod %s (%s): %s", pod.name, pod.uid, reason)
        try:
            await self._api.delete_pod(pod.name, pod.uid)
        except KubernetesFault as fault:
            logger.error("pod %s cannot be replaced: %s", pod.name, fault.detail)


class PodTriton(RemoteTriton):
    def __init__(
        self,
        name: str,
        directory: PodDirectory,
        replacement: PodReplacement,
        key: str,
        device: Device,
        repository: ModelRepository,
    ) -> None:
        pod = directory.pods.get(name)
        super().__init__((pod and pod.endpoints) or NOWHERE, key, device, repository)
        self.name = name
        self._directory = directory
        self._replacement = replacement
        self._uid = ""  # of the pod that was started last
        self._serving = False  # it started, and has not died

    @property
    def leaving(self) -> bool:
        pod = self._directory.pods.get(self.name)
        return pod is None or pod.ending

    @property
    def _pod(self) -> Pod | None:
        """The pod that was started last, while it is there."""
        pod = self._directory.pods.get(self.name)
        return pod if pod is not None and pod.uid == self._uid else None

    async def start(self, seconds: float) -> None:
        """Wait until the pod has an address, and its Triton answers there."""
        end = time.monotonic() + seconds
        try:
            await asyncio.wait_for(self._directory.until(self._find_address), seconds)
        except asyncio.TimeoutError:
            raise ServerFault(self._why_absent()) from None
        try:
            await self._await_answer(max(LEAST_SECONDS, end - time.monotonic()))
        except ServerFault as fault:
            pod = self._pod
            if pod is None or not self._is_there:
                raise
            if pod.ready:
                raise ServerFault(
                    f"{fault.detail}, although Kubernetes finds pod {self.name} ready: does a NetworkPolicy "
                    "keep this façade from it?"
                ) from None
            if pod.started:
                await self._replacement.replace(pod, fault.detail)
            raise

    async def _await_answer(self, seconds: float) -> None:
        """As long as the pod is there at that address: the next one with its name has another."""
        answer = asyncio.create_task(super().start(seconds))
        moved = asyncio.create_task(self._directory.until(lambda: not self._is_there))
        try:
            await asyncio.wait({answer, moved}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ServerFault(f"pod {self.name} was replaced, or has another address now")
            answer.result()
        finally:
            await _end(answer, moved)

    @property
    def _is_there(self) -> bool:
        """The pod that was found last is where it was found."""
        pod = self._pod
        return pod is not None and not pod.ending and pod.endpoints == self.endpoints

    def _find_address(self) -> bool:
        pod = self._directory.pods.get(self.name)
        if pod is None or pod.ending or pod.endpoints is None:
            return False
        self._uid, self.endpoints = pod.uid, pod.endpoints
        return True

    def _why_absent(self) -> str:
        pod = self._directory.pods.get(self.name)
        return f"there is no pod {self.name}" if pod is None else pod.state

    async def died(self) -> str:
        self._serving = True
        gone = asyncio.create_task(self._directory.until(lambda: self._pod is None))
        lost = asyncio.create_task(super().died())
        try:
            await asyncio.wait({gone, lost}, return_when=asyncio.FIRST_COMPLETED)
            return "its pod is gone" if gone.done() else lost.result()
        finally:
            self._serving = False
            await _end(gone, lost)

    async def kill(self) -> None:
        """Give the connection up; the pod of a server that serves, but is to be restarted, is replaced."""
        if self._serving and (pod := self._pod) is not None and not pod.ending:
            await self._replacement.replace(pod, "a model's replica asks for a restart")
        await super().kill()

    async def stop(self) -> None:
        await super().kill()


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
