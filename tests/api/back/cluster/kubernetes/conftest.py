"""A double of the API server for each test, which this process finds by KUBECONFIG."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from api.back.cluster import pods
from api.back.cluster.kubernetes_api import KubernetesApi
from tests.api.back.cluster.kubernetes.double import FACADE, KubernetesDouble


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
