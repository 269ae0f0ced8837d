"""From an artifact on disk to the first answer: of an engine in a fresh process, and of a deployment.

The process starts with Python itself and ends with the first token. The deployment is taken away, which is
not counted, and made again; it ends with the answer to a request for one token. Nothing is dropped from the
page cache: the files have been read before. In the end the deployment has another id, and is the youngest.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from cli.client import Client, connect
from perf.deployed import Deployed
from perf.errors import LoadError
from perf.http.progress import Progress
from perf.report import markdown_table, spread
from perf.stack.report import Bound, Report, Target
from perf.stack.running import Stack
from runtime.contract import Kind

IN_PROCESS = Target("seconds of a fresh process until the first token", Bound.AT_MOST, 4.0, ".2f", " s")
DEPLOYED = Target("seconds of a deployment until the first answer", Bound.AT_MOST, 4.0, ".2f", " s")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)


def measure(stack: Stack, options: argparse.Namespace) -> Report:
    deployed = stack.deployed(Kind.LM, options.model)
    say = Progress().say
    loads: list[float] = []
    tokens: list[float] = []
    made: list[float] = []
    answers: list[float] = []
    with connect(stack.url) as client:
        for _ in range(options.rounds):
            loaded, token = fresh_process(stack.folder(deployed))
            loads.append(loaded)
            tokens.append(token)
            deployment, answer = deploy_again(client, deployed)
            made.append(deployment)
            answers.append(answer)
            say(f"fresh process {token:.2f} s, deployment {answer:.2f} s")
            deployed = stack.deployed(Kind.LM, deployed.model)  # a new id
    rows = [
        ("fresh process: engine loaded", spread(loads, ".2f")),
        ("fresh process: first token", spread(tokens, ".2f")),
        ("deployment: ready", spread(made, ".2f")),
        ("deployment: first answer", spread(answers, ".2f")),
    ]
    return Report(
        f"{deployed.label}, {stack.slots(deployed)} slots, {options.rounds} rounds, in turn."
        " Seconds, median (least to most):",
        [(IN_PROCESS, median(tokens)), (DEPLOYED, median(answers))],
        markdown_table(("", "seconds"), rows),
        {"loaded": loads, "first_token": tokens, "deployed": made, "first_answer": answers},
    )


def fresh_process(folder: Path) -> tuple[float, float]:
    """Seconds until its engine was loaded, and until it had a token. Raises LoadError."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "perf.stack.first_token", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise LoadError(f"the fresh process: {ended.stderr.strip().rpartition(chr(10))[2]}")
    loaded, token = map(float, ended.stdout.split())
    return loaded - begin, token - begin


def deploy_again(client: Client, deployed: Deployed) -> tuple[float, float]:
    """Seconds until it was deployed anew, and until it had answered."""
    record: dict[str, Any] = client.call("GET", f"/v1/deployments/{deployed.id}")
    kept = {name: record[name] for name in ("model", "replicas", "traffic_weight")}
    body = {**kept, "precision": record["precision_asked"], "version": str(record["version"]), "force": True}
    again: dict[str, Any] | None = None
    client.call("DELETE", f"/v1/deployments/{deployed.id}")
    try:
        begin = time.perf_counter()
        again = client.call("POST", "/v1/deployments", json=body)
        made = time.perf_counter() - begin
    finally:
        if again is None:  # whatever came between: the appliance is left as it was
            again = client.call("POST", "/v1/deployments", json=body)
        if record["capacity"] is not None:
            client.call("PATCH", f"/v1/deployments/{again['id']}", json={"capacity": record["capacity"]})
    asked = {"model": deployed.model, "prompt": "Once upon a time", "max_tokens": 1, "temperature": 0}
    client.call("POST", "/v1/generate", json=asked)
    return made, time.perf_counter() - begin
