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

    async def lines(address: str) -> str:
        return LINES

    monkeypatch.setattr(metrics, "engine_lines", lines)
    assert await metrics.engine_counters("127.0.0.1:1", "tiny", 1) == {
        'lmaas_engine_steps_total{model="tiny",version="1"}': 12,
        'lmaas_engine_sequences_finished_total{model="tiny",reason="stop",version="1"}': 3,
    }


def test_the_samples_of_several_servers_stand_together() -> None:
    joined = metrics.join_servers({"triton-0": LINES, "triton-1": "", "triton-2": LINES})
    assert joined.splitlines()[:4] == [
        "# HELP lmaas_engine_waiting Requests that wait for a slot",
        "# TYPE lmaas_engine_waiting gauge",
        'lmaas_engine_waiting{model="tiny",version="1",server="triton-0"} 7',
        'lmaas_engine_waiting{model="tiny",version="1",server="triton-2"} 7',
    ]
    assert len(joined.splitlines()) == 2 + 2 * 4
    assert metrics.join_servers({"triton-0": "lmaas_up 1\n"}) == 'lmaas_up{server="triton-0"} 1\n'
    assert metrics.join_servers({"triton-0": "", "triton-1": ""}) == ""


@pytest.mark.anyio
async def test_the_latest_load_says_why_it_fell_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton may still show what a process said that has died."""
    name = "lmaas_engine_fallback_timestamp_seconds"

    async def lines(address: str) -> str:
        return f"""{LINES}# TYPE {name} gauge
{name}{{model="tiny",reason="no \\"plan\\" in C:\\\\plans, {{1}}",version="1"}} 1795000001
{name}{{model="tiny",reason="",version="1"}} 1795000000
{name}{{model="tiny",reason="no plan",version="2"}} 1795000000.5
{name}{{model="tiny",reason="",version="2"}} 1795000000.75
"""

    monkeypatch.setattr(metrics, "engine_lines", lines)
    found = [await metrics.engine_fallback("127.0.0.1:1", "tiny", number) for number in (1, 2, 3)]
    assert found == ['no "plan" in C:\\plans, {1}', None, None]
