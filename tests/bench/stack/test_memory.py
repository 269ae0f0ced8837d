"""Sums over all processes; the cache's rows from /metrics."""

from __future__ import annotations

from bench.stack.memory import Look, Process, rows_used
from perf.deployed import Deployed
from perf.http.ask import Task
from runtime.contract import Kind

METRICS = """# TYPE lmaas_engine_kv_tokens_used gauge
lmaas_engine_kv_tokens_used{model="mini-lm",version="3",server="triton-0"} 1024
lmaas_engine_kv_tokens_used{model="mini-lm",version="31"} 7
"""


def test_rows_of_one_version() -> None:
    deployed = Deployed("dep-1", "mini-lm", 3, "int8", Kind.LM, Task.GENERATE)
    assert rows_used(METRICS, deployed) == 1024
    assert rows_used("", deployed) == 0


def test_sums() -> None:
    look = Look([Process(1, "façade", 30, 20), Process(2, "Triton", 50, 40)], 0)
    assert (look.rss, look.pss) == (80, 60)
