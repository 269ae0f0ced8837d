"""An unchanged `openai` client's batches on the real Triton, also over a `kill -9` of the façade."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
from openai.types import Batch

from tests.e2e.appliance import Appliance, home_with, running

ENDED = ("completed", "failed", "expired", "cancelled")


def client(appliance: Appliance) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{appliance.url}/v1", api_key="none", max_retries=0)


def submit(asked: openai.OpenAI, endpoint: Any, bodies: Mapping[str, Mapping[str, Any]]) -> Batch:
    lines = [
        json.dumps({"custom_id": name, "method": "POST", "url": endpoint, "body": body})
        for name, body in bodies.items()
    ]
    file = asked.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    return asked.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")


def completed(asked: openai.OpenAI, batch: Batch) -> int:
    counts = asked.batches.retrieve(batch.id).request_counts
    return counts.completed if counts else 0


def ended(appliance: Appliance, batch_id: str) -> Batch:
    with client(appliance) as asked:

        def over() -> Batch | None:
            batch = asked.batches.retrieve(batch_id)
            return batch if batch.status in ENDED else None

        found: Batch = appliance.wait_for(over, f"the end of {batch_id}", 200)
        return found


def content(appliance: Appliance, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    with client(appliance) as asked:
        return [json.loads(line) for line in asked.files.content(file_id).text.splitlines()]


def test_lines_are_answered_as_single_requests_are(appliance: Appliance) -> None:
    greedy = {"max_tokens": 12, "temperature": 0}
    asked: dict[str, dict[str, dict[str, Any]]] = {
        "/v1/completions": {
            "one": {"model": "mini-lm", "prompt": "The king", **greedy},
            "two": {"prompt": ["The sea", "A little dog"], **greedy},
            "bad": {"prompt": "a", "max_tokens": 100_000},
        },
        "/v1/embeddings": {"e": {"model": "mini-lm", "input": ["The king", "The sea"]}},
        "/v1/classify": {"c": {"input": "a wonderful film"}},
    }
    with client(appliance) as opened:
        batches = {endpoint: submit(opened, endpoint, bodies) for endpoint, bodies in asked.items()}
    for endpoint, bodies in asked.items():
        batch = ended(appliance, batches[endpoint].id)
        assert batch.status == "completed"
        found = {
            line["custom_id"]: line["response"]
            for file_id in (batch.output_file_id, batch.error_file_id)
            for line in content(appliance, file_id)
        }
        assert found.keys() == bodies.keys()
        for name, body in bodies.items():
            single = appliance.http.post(endpoint, json=body)
            assert found[name]["status_code"] == single.status_code
            for part in ("choices", "data", "results", "error"):
                assert found[name]["body"].get(part) == single.json().get(part)


def long_lines(count: int, max_tokens: int) -> dict[str, dict[str, Any]]:
    return {
        f"line-{number}": {"prompt": f"Number {number} was", "max_tokens": max_tokens, "ignore_eos": True}
        for number in range(count)
    }


def test_a_batch_goes_on_after_a_kill_and_gives_way_to_requests(converted_home: Path, tmp_path: Path) -> None:
    home = home_with(converted_home, tmp_path / "home", "mini-lm")
    bodies = long_lines(60, 480)  # seconds of work, also on a fast machine: the kill comes amid it
    with running(home, num_slots="4", batch_slots="4") as killed, client(killed) as asked:
        batch = submit(asked, "/v1/completions", bodies)
        before = killed.wait_for(lambda: completed(asked, batch), "the first answers")
        killed.process.kill()
        killed.process.wait()
    assert before < len(bodies)
    with running(home, num_slots="4", batch_slots="4") as again, client(again) as asked:
        assert completed(asked, batch) >= before
        other = submit(asked, "/v1/completions", long_lines(1000, 100))
        again.wait_for(lambda: completed(asked, other), "the first answers", 100)
        request = {"prompt": "Once", "max_tokens": 40, "ignore_eos": True}
        with ThreadPoolExecutor(4) as pool:
            for answer in pool.map(lambda _: again.post("/v1/generate", request), range(4)):
                assert answer["usage"]["completion_tokens"] == 40
        metrics = again.http.get("/metrics").text.splitlines()
        gave_way = next(line for line in metrics if line.startswith("lmaas_batch_gave_way_total"))
        assert float(gave_way.split()[1]) >= 1
        asked.batches.cancel(other.id)
        assert ended(again, other.id).status == "cancelled"
        batch = ended(again, batch.id)
        assert (batch.status, completed(asked, batch)) == ("completed", len(bodies))
        assert [line["custom_id"] for line in content(again, batch.output_file_id)] == list(bodies)
