"""The invariant of the blob store: what lies on the disk is exactly what some version refers to."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import union

from api.back.settings import BackSettings
from api.back.store import tables
from api.errors import NotFound
from bench.chaos.services import S3Server
from tests.api.back.stores import Stores, open_stores

NAMES = st.sampled_from(["a", "b"])
ARCHIVES = st.sampled_from(["lm", "other-lm", "classifier"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("upload"), NAMES, ARCHIVES),
        st.tuples(st.just("delete version"), NAMES, st.integers(1, 4)),
        st.tuples(st.just("delete"), NAMES, st.just(0)),
    ),
    max_size=8,
)


async def take(stores: Stores, archives: dict[str, Path], step: tuple[str, str, Any]) -> None:
    action, name, what = step
    try:
        if action == "upload":
            upload = Path(shutil.copy(archives[what], stores.settings.home / "upload"))
            await stores.models.add_upload(name, upload, what)
        elif action == "delete version":
            await stores.models.delete_version(name, what)
        else:
            await stores.models.delete(name)
    except NotFound:
        return


async def referenced(stores: Stores) -> set[str]:
    query = union(
        tables.versions.select().with_only_columns(tables.versions.c.archive_sha256),
        tables.version_files.select().with_only_columns(tables.version_files.c.sha256),
    )
    async with stores.database.read() as connection:
        return set((await connection.execute(query)).scalars())


@pytest.mark.parametrize("kind", ["folder", "bucket"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_blobs_are_what_versions_refer_to(
    archives: dict[str, Path], s3_server: S3Server, bucket: str, kind: str, steps: list[Any]
) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as folder:
            url = s3_server.create_bucket() if kind == "bucket" else None
            async with open_stores(BackSettings(home=Path(folder), blob_url=url)) as stores:
                for step in steps:
                    await take(stores, archives, step)
                    assert stores.blob_files() == await referenced(stores)

    asyncio.run(play())
