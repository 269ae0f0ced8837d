"""What the engine says of itself through Triton's /metrics, in Prometheus' text format."""

from __future__ import annotations

import re

import httpx

from api.back.cluster.triton_process import HOST

TIMEOUT_SECONDS = 1.0
OURS = re.compile(r"^(# (HELP|TYPE) )?lmaas_")
COUNTER = re.compile(r"^(?P<series>lmaas_\w+_total(\{.*\})?) (?P<value>\S+)$")


async def engine_lines(port: int) -> str:
    """The lines of all lmaas_* metrics; empty while Triton is away."""
    try:
        async with httpx.AsyncClient(verify=False, trust_env=False, timeout=TIMEOUT_SECONDS) as client:
            response = await client.get(f"http://{HOST}:{port}/metrics")
    except httpx.TransportError:
        return ""
    return "".join(f"{line}\n" for line in response.text.splitlines() if OURS.match(line))


async def engine_counters(port: int, model: str, version: int) -> dict[str, float]:
    """The counters of one model version: they move only where it works, while a queue grows by itself."""
    labels = (f'model="{model}"', f'version="{version}"')
    samples = (COUNTER.match(line) for line in (await engine_lines(port)).splitlines())
    return {
        sample["series"]: float(sample["value"])
        for sample in samples
        if sample and all(label in sample["series"] for label in labels)
    }
