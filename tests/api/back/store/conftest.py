"""Every test of the store that asks for `settings` or `stores` runs on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from api.back.settings import BackSettings
from tests.api.back.conftest import AWKWARD_NAME


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> BackSettings:
    """Their database is empty."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres").create_database()
    return BackSettings(home=tmp_path / AWKWARD_NAME, database_url=url)


@pytest.fixture
def database_url(settings: BackSettings) -> str:
    settings.home.mkdir()
    return make_url(settings.database).render_as_string(hide_password=False)
