"""The façade that is compared writes no records, and says nothing else than the other one."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.back.settings import BackSettings
from api.back.store.task_writer import TaskWriter
from bench.stack.without_records import ignore
from tests.api.back.store.test_tasks import record
from tests.api.back.stores import open_stores

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("writes", "expected"), [(True, ["task-001"]), (False, [])])
async def test_only_one_of_them_writes(
    writes: bool, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not writes:
        monkeypatch.setattr(TaskWriter, "put", ignore)
    async with open_stores(BackSettings(home=tmp_path / "home")) as stores:
        stores.queue.update(record(1))
        await stores.queue.flush()
        assert [task.id for task in await stores.tasks.list()] == expected
