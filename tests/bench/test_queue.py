"""The command that measures the queue, on few tasks."""

from __future__ import annotations

import asyncio

from typer.testing import CliRunner

from bench.__main__ import app
from bench.chaos.services import Postgres
from bench.queue import measure


def test_it_prints_a_line_for_each_number() -> None:
    result = CliRunner().invoke(app, ["queue", "--count", "4", "--count", "30", "--samples", "3"])
    assert result.exit_code == 0, result.output
    assert "sqlite" in result.output
    assert [line.split()[1] for line in result.output.splitlines() if line.startswith("│")] == ["4", "30"]


def test_it_runs_on_postgresql(postgres: Postgres) -> None:
    rows = asyncio.run(measure(postgres.create_database(), [4, 30], 3))
    assert [row.waiting for row in rows] == [4, 30]
    assert all(min(row.submit + row.look + row.claim) > 0 for row in rows)
