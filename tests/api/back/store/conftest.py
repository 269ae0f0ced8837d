"""Every test of the store that asks for `settings` or `stores` runs on both databases."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import make_url

from api.back.settings import BackSettings
from api.back.store.database import Database
from bench.chaos.services import Postgres
from tests.api.back.conftest import AWKWARD_NAME


@pytest.fixture(scope="session")
def tables(postgres: Postgres) -> str:
    """The name of a PostgreSQL database without rows. The revisions make it once, and not for each test."""

    async def migrate(url: str) -> str:
        async with Database.open(url):
            return str(make_url(url).database)

    return asyncio.run(migrate(postgres.create_database()))


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> BackSettings:
    """Their database has no rows."""
    home = tmp_path / AWKWARD_NAME
    if request.param == "sqlite":
        return BackSettings(home=home)
    server, tables = request.getfixturevalue("postgres"), request.getfixturevalue("tables")
    return BackSettings(home=home, database_url=server.create_database(tables))


@pytest.fixture
def database_url(settings: BackSettings) -> str:
    settings.home.mkdir()
    return make_url(settings.database).render_as_string(hide_password=False)
