"""The engine's metrics, from Triton's /metrics, in Prometheus' text format."""

from __future__ import annotations

import re
from collections.abc import Mapping

import httpx

from runtime.contract import FALLBACK_METRIC

TIMEOUT_SECONDS = 1.0
OURS = re.compile(r"^(# (HELP|TYPE) )?lmaas_")
FALLBACK = re.compile(rf"^{FALLBACK_METRIC}\{{(?P<labels>.*)\}} (?P<value>\S+)$")
LABEL = re.compile(r'(?P<name>\w+)="(?P<value>(?:[^"\\]|\\.)*)"')
COUNTER = re.compile(r"^(?P<series>lmaas_\w+_total(\{.*\})?) (?P<value>\S+)$")


async def engine_lines(address: str) -> str:
    """The lines of all lmaas_* metrics of the server with this metrics address; empty while it is away."""
    try:
        async with httpx.AsyncClient(verify=False, trust_env=False, timeout=TIMEOUT_SECONDS) as client:
            response = await client.get(f"http://{address}/metrics")
    except httpx.TransportError:
        return ""
    return "".join(f"{line}\n" for line in response.text.splitlines() if OURS.match(line))


def join_servers(texts: Mapping[str, str]) -> str:
    """The metrics of several servers as one text, by the server's name: each sample gets the label `server`.

    The format wants the samples of a metric together, below one HELP and one TYPE line.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for server, text in texts.items():
        for line in text.splitlines():
            if line.startswith("#"):
                known = heads.setdefault(line.split(" ", 3)[2], [])
                if line not in known:
                    known.append(line)
            else:
                series, _, value = line.rpartition(" ")
                name, _, labels = series.partition("{")
                labels = ",".join(filter(None, (labels.rstrip("}"), f'server="{server}"')))
                samples.setdefault(name, []).append(f"{name}{{{labels}}} {value}")
    lines = (line for name, found in samples.items() for line in (*heads.get(name, ()), *found))
    return "".join(f"{line}\n" for line in lines)


async def engine_counters(address: str, model: str, version: int) -> dict[str, float]:
    """The counters of one model version. They grow only while it works; gauges change also without."""
    labels = (f'model="{model}"', f'version="{version}"')
    samples = (COUNTER.match(line) for line in (await engine_lines(address)).splitlines())
    return {
        sample["series"]: float(sample["value"])
        for sample in samples
        if sample and all(label in sample["series"] for label in labels)
    }


async def engine_fallback(address: str, model: str, version: int) -> str | None:
    """Why the latest load of a version fell back from TensorRT; None where it did not, or is unknown."""
    loads: list[tuple[float, str]] = []
    for sample in map(FALLBACK.match, (await engine_lines(address)).splitlines()):
        labels = {} if sample is None else dict(LABEL.findall(sample["labels"]))
        if sample is not None and (labels["model"], labels["version"]) == (model, str(version)):
            loads.append((float(sample["value"]), re.sub(r"\\(.)", r"\1", labels["reason"])))
    return max(loads, default=(0.0, ""))[1] or None
