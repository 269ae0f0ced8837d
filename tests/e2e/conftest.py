"""The appliance that most end-to-end tests share, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.appliance import Appliance, running


@pytest.fixture(scope="session")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    with running(tmp_path_factory.mktemp("appliance") / "home") as started:
        yield started
