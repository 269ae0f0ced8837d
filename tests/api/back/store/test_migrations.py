"""Databases of every earlier schema come up to date, and the revisions give the tables of tables.py."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text, update

from api.back.settings import BackSettings
from api.back.store import migrations, tables
from api.back.store.database import Database
from api.errors import ServerFault
from tests.api.back.conftest import AWKWARD_NAME

pytestmark = pytest.mark.anyio
SCHEMAS = Path(__file__).parent / "schemas"


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> BackSettings:
    """Their database has no tables."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres").create_database()
    return BackSettings(home=tmp_path / AWKWARD_NAME, database_url=url)


def differences(connection: Connection) -> list[object]:
    """Between the tables of a database and those of tables.py."""
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, tables.metadata))


async def test_the_revisions_give_the_tables_that_the_store_uses(database_url: str) -> None:
    """Where it fails, a change of tables.py has no revision yet: CONTRIBUTING.md says how to add one."""
    async with Database.open(database_url) as database, database.read() as connection:
        assert await connection.run_sync(differences) == []
        await connection.exec_driver_sql("DROP INDEX tasks_by_age")
        assert len(await connection.run_sync(differences)) == 1  # what it compares with is not empty


async def test_a_database_from_before_the_revisions_comes_up_to_date(database_url: str) -> None:
    old = create_engine(database_url.replace("+aiosqlite", ""))
    with old.begin() as connection:
        for statement in (SCHEMAS / f"{old.dialect.name}-5.sql").read_text().split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement)
        connection.exec_driver_sql("INSERT INTO models VALUES ('tiny', '', 0)")
        connection.exec_driver_sql("INSERT INTO versions VALUES ('tiny', 1, 'ready', 'aa', NULL, NULL, 0)")
        connection.exec_driver_sql("INSERT INTO aliases VALUES ('tiny', 'stable', 1)")
    old.dispose()
    for _ in range(2):
        async with Database.open(database_url) as database, database.read() as connection:
            assert await connection.run_sync(differences) == []
            assert await connection.scalar(text("SELECT version FROM aliases")) == 1
            assert await connection.scalar(text("SELECT version FROM schema")) > 5


async def test_several_that_start_at_once_migrate_once(database_url: str) -> None:
    async def start() -> None:
        async with Database.open(database_url):
            pass

    async with anyio.create_task_group() as starts:
        for _ in range(8):
            starts.start_soon(start)


@pytest.mark.parametrize(("revision", "age"), [("9999", "a newer LMaaS"), ("0002", "an older LMaaS")])
async def test_the_database_of_another_lmaas_is_refused(database_url: str, revision: str, age: str) -> None:
    async with Database.open(database_url) as database, database.write() as connection:
        await connection.execute(
            text("UPDATE alembic_version SET version_num = :number"), {"number": revision}
        )
    with pytest.raises(ServerFault, match=rf"the database .* has schema {int(revision)}, .* by {age}"):
        async with Database.open(database_url):
            pass


async def test_a_database_from_before_all_revisions_is_refused(database_url: str) -> None:
    async with Database.open(database_url) as database, database.write() as connection:
        await connection.exec_driver_sql("DROP TABLE alembic_version")
        await connection.execute(update(tables.schema).values(version=migrations.FIRST - 1))
    with pytest.raises(ServerFault, match=r"has schema 2, .* by an older LMaaS"):
        async with Database.open(database_url):
            pass
