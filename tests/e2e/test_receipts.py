"""Receipts of a real appliance are replayed over HTTP, alone and under load, and by a native client."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from lmaas import app
from tests.e2e.appliance import Appliance
from tests.e2e.test_native_triton import client as client
from tests.e2e.test_native_triton import generation, stream

STORY = "Once upon a time there was a little girl who lived in a house near the forest. "


def replayed(appliance: Appliance, file: Path) -> dict[str, Any]:
    ended = CliRunner().invoke(app, ["replay", str(file), "--json", "--url", appliance.url])
    assert ended.exit_code == 0, ended.output
    found: dict[str, Any] = json.loads(ended.output)
    return found


def test_answers_are_replayed_under_load(appliance: Appliance, tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = [
        {"prompt": [STORY, "The king"], "n": 2, "max_tokens": 24},
        {"prompt": STORY * 3, "temperature": 0, "max_tokens": 40, "stop": ["forest."]},
    ]
    files = [tmp_path / f"{number}.json" for number in range(len(bodies))]
    for file, body in zip(files, bodies, strict=True):
        file.write_text(json.dumps(appliance.post("/v1/generate", {**body, "receipt": True})))
    load = {"prompt": [f"{number} {STORY}" for number in range(12)], "max_tokens": 60, "ignore_eos": True}
    with ThreadPoolExecutor(2) as threads:
        others = [threads.submit(appliance.post, "/v1/generate", load) for _ in range(2)]
        for file in files:
            found = replayed(appliance, file)
            assert found["equal"], found
            assert {request["exact_on"] for request in found["requests"]} == {"any-processor"}
        assert all(len(other.result()["choices"]) == 12 for other in others)


def test_a_stream_of_openai_s_route_is_replayed(appliance: Appliance, tmp_path: Path) -> None:
    body = {"prompt": STORY, "max_tokens": 12, "stream": True, "receipt": True}
    lines = appliance.http.post("/v1/completions", json=body).text.splitlines()
    *_, last, done = [line.removeprefix("data: ") for line in lines if line]
    assert done == "[DONE]"
    file = tmp_path / "last.json"
    file.write_text(last)
    assert replayed(appliance, file)["requests"][0]["tokens"] == 12


def test_a_native_client_gets_one(appliance: Appliance, client: Any, tmp_path: Path) -> None:
    *_, last = stream(client, generation(True, max_tokens=9, receipt=True))
    file = tmp_path / "details.json"
    file.write_bytes(last.as_numpy("details")[0])
    assert replayed(appliance, file)["requests"][0]["tokens"] == 9
