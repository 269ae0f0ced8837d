from __future__ import annotations

import pytest

from api.back.cluster import metrics

LINES = """# HELP lmaas_engine_waiting Requests that wait for a slot
# TYPE lmaas_engine_waiting gauge
lmaas_engine_waiting{model="tiny",version="1"} 7
lmaas_engine_steps_total{model="tiny",version="1"} 12
lmaas_engine_steps_total{model="tiny",version="2"} 13
lmaas_engine_sequences_finished_total{model="tiny",reason="stop",version="1"} 3
"""


@pytest.mark.anyio
async def test_a_growing_queue_is_no_sign_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """While an engine hangs its gauges may still move: callers come and wait."""

    async def lines(port: int) -> str:
        return LINES

    monkeypatch.setattr(metrics, "engine_lines", lines)
    assert await metrics.engine_counters(1, "tiny", 1) == {
        'lmaas_engine_steps_total{model="tiny",version="1"}': 12,
        'lmaas_engine_sequences_finished_total{model="tiny",reason="stop",version="1"}': 3,
    }
