"""A double of the API server for each test, which this process finds by KUBECONFIG."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from api.back.cluster import pods
from api.back.cluster.kubernetes_api import KubernetesApi
from tests.api.back.cluster.kubernetes.double import FACADE, KubernetesDouble

FAREWELL_TURNS = 5  # of the event loop, in which it sees that connections have ended


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesDouble]:
    made = KubernetesDouble(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig(FACADE)))
    monkeypatch.setattr(pods, "MAX_BACKOFF_SECONDS", 0.02)
    yield made
    made.close()


@pytest.fixture
async def api(double: KubernetesDouble) -> AsyncIterator[KubernetesApi]:
    async with KubernetesApi.open("") as opened:
        yield opened
    # A request that was cancelled before its answer began leaves a connection that waits for the server.
    double.close()
    for _ in range(FAREWELL_TURNS):
        await asyncio.sleep(0.001)
