from __future__ import annotations

import pytest

from kernels.library import missing


@pytest.fixture
def operators() -> None:
    """The library was built and can be used here; skips where a setting forbids it."""
    reason = missing()
    if reason is not None:
        assert "LMAAS_KERNELS" in reason
        pytest.skip(reason)
