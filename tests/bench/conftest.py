"""Asynchronous tests run on asyncio, as the load generator does where uvloop is not installed."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
