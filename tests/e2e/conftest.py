"""The appliance that most end-to-end tests share, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.appliance import MAX_UNPACKED_BYTES, Appliance, running


@pytest.fixture(scope="session")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    home = tmp_path_factory.mktemp("appliance") / "home"
    with running(home, max_unpacked_bytes=str(MAX_UNPACKED_BYTES)) as started:
        yield started
