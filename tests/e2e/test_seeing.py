"""What an operator sees of a running appliance: log lines, metrics, traces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.receiver import Receiver, receiving
from tests.e2e.appliance import Appliance, home_with, running
from tests.monitoring.promql import OF_PROMETHEUS, OF_SCRAPING, expressions, parsed, selectors

SECRETS = ("zebra crossing", "sk-very-secret")  # a prompt, a key
HEADERS = {"Authorization": "Bearer sk-very-secret"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture(scope="module")
def seen(
    receiver: Receiver, converted_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Appliance]:
    home = home_with(converted_home, tmp_path_factory.mktemp("seen") / "home", "mini-lm")
    with running(home, log_format="json", log_level="debug", otlp_endpoint=receiver.url) as started:
        yield started


def lines(appliance: Appliance) -> list[dict[str, Any]]:
    """Every line of the process's output; one that is no JSON object fails the test."""
    *whole, _ = appliance.log.read_text().split("\n")
    return [json.loads(line) for line in whole]


def test_each_line_of_each_process_is_one_json_object(seen: Appliance) -> None:
    sent = {"prompt": "a zebra crossing\n\x1b[2J", "max_tokens": 3, "ignore_eos": True}
    answer = seen.http.post("/v1/generate", json=sent, headers={**HEADERS, "X-Request-Id": "look-here"})
    assert answer.status_code == 200
    refused = seen.http.get("/v1/generate?prompt=zebra crossing&n=0", headers=HEADERS)
    assert refused.status_code == 422

    def of_request() -> list[dict[str, Any]]:
        found = [line for line in lines(seen) if line.get("request_id") == "look-here"]
        return found if len(found) >= 2 else []

    by_logger = {line["logger"]: line for line in seen.wait_for(of_request, "the lines of a request")}
    access, engine = by_logger["lmaas.access"], by_logger["runtime.output_thread"]
    assert (access["path"], access["route"], access["status"]) == ("/v1/generate", "/v1/generate", 200)
    assert (access["model"], access["task_id"]) == ("mini-lm", answer.json()["id"])
    assert (engine["model"], engine["server"], engine["outcome"]) == ("mini-lm", "triton-0", "done")
    assert (engine["completion_tokens"], engine["level"]) == (3, "debug")
    for line in lines(seen):
        assert {"time", "level", "logger", "message"} <= line.keys()
    everything = seen.log.read_text() + "".join(each.read_text() for each in (seen.home / "logs").iterdir())
    assert not [secret for secret in SECRETS if secret in everything]
    assert "\x1b" not in seen.log.read_text()


def test_a_trace_goes_from_the_request_to_the_engine(seen: Appliance, receiver: Receiver) -> None:
    trace_id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    sent = {"prompt": "a zebra crossing", "max_tokens": 8, "ignore_eos": True}
    headers = {"traceparent": f"00-{trace_id}-{parent}-01"}
    assert seen.http.post("/v1/generate", json=sent, headers=headers).status_code == 200
    spans = receiver.trace(trace_id, 8)
    within = {
        "POST /v1/generate": None,
        "task generate": "POST /v1/generate",
        "queue": "task generate",
        "dispatch": "task generate",
        "triton generate": "dispatch",
        "engine queue": "triton generate",
        "engine prefill": "triton generate",
        "engine decode": "triton generate",
    }
    assert set(spans) == set(within)
    for name, outer in within.items():
        assert spans[name].parent_id == (parent if outer is None else spans[outer].span_id)
    call, parts = (
        spans["triton generate"],
        [spans[f"engine {each}"] for each in ("queue", "prefill", "decode")],
    )
    assert (call.values["lmaas.model"], call.values["rpc.system"]) == ("mini-lm", "grpc")
    assert [part.end for part in parts[:2]] == [part.begin for part in parts[1:]]
    assert all(part.begin <= part.end for part in parts)
    assert parts[0].begin >= call.begin - 50_000_000  # two processes read their clocks
    assert spans["POST /v1/generate"].values["gen_ai.usage.output_tokens"] == 8
    logged = [line for line in lines(seen) if line.get("trace_id") == trace_id]
    assert {line["logger"] for line in logged} >= {"lmaas.access"}
    assert not any(b"zebra" in body for body in receiver.bodies)


def known_metrics(text: str) -> dict[str, set[str]]:
    """The labels of each metric, by the name of its samples, those that have no sample yet among them."""
    known: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        known |= {family.name + ending: known.get(family.name + ending, set()) for ending in endings}
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    return known


def test_dashboard_and_alerts_name_metrics_and_labels_that_exist(seen: Appliance) -> None:
    """After a stream and an asynchronous task."""
    seen.http.post("/v1/generate", json={"prompt": "a", "max_tokens": 4, "stream": True}).raise_for_status()
    task = seen.post("/v1/tasks", {"type": "next", "parameters": {"prompt": "a"}})
    assert seen.finished_task(task)["state"] == "done"

    def is_reported() -> bool:  # the engine's figures come every second
        return "lmaas_engine_kv_cache_usage_ratio{" in seen.http.get("/metrics").text

    seen.wait_for(is_reported, "the engine's metrics")
    known = known_metrics(seen.http.get("/metrics").text)
    # Their samples come once the capacity was measured.
    later = {key: {"model", "version"} for key in ("lmaas_utilisation_ratio", "lmaas_replica_capacity")}
    for place, expression in expressions().items():
        for name, labels in selectors(parsed(expression)):
            if name in OF_PROMETHEUS:
                continue
            assert name in known, f"{place}: there is no metric {name}"
            wrong = labels - OF_SCRAPING - (known[name] or later.get(name, set()))
            assert not wrong, f"{place}: {name} has no label {wrong}"
