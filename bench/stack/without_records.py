"""`lmaas`, whose façade writes no records of synchronous tasks; `bench.stack.records` runs it.

python -m bench.stack.without_records up
"""

from __future__ import annotations

from api.back.store.records import TaskRecord
from api.back.store.task_writer import TaskWriter
from lmaas import app


def ignore(self: TaskWriter, record: TaskRecord) -> None:
    """In place of `TaskWriter.put`."""


if __name__ == "__main__":
    TaskWriter.put = ignore  # type: ignore[method-assign]
    app()
