"""From an artifact on disk to the first answer: of an engine in a fresh process, and of a deployment.

The time of the process begins when Python starts and ends with the first token. The deployment is removed,
which is not counted, and made again; its time ends with the answer to a request for one token. The files stay
in the page cache: they have been read before. In the end the deployment has another id and is the newest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.stack.report import Bound, Model, Name, Pid, Report, Rounds, Target, publish
from bench.stack.running import Stack
from cli.command import Url
from client.http import DEFAULT_URL, Client
from perf.deployed import Deployed
from perf.errors import LoadError
from perf.http.progress import Progress
from perf.report import markdown_table, spread
from runtime.contract import Kind

ROOT = Path(__file__).resolve().parents[2]
IN_PROCESS = Target("seconds of a fresh process until the first token", Bound.AT_MOST, 4.0, ".2f", " s")
DEPLOYED = Target("seconds of a deployment until the first answer", Bound.AT_MOST, 4.0, ".2f", " s")

# What each round measures, in this order.
STAGES = {
    "loaded": "fresh process: engine loaded",
    "first_token": "fresh process: first token",
    "deployed": "deployment: ready",
    "first_answer": "deployment: first answer",
}


def start(
    model: Model = None,
    rounds: Rounds = 5,
    url: Url = DEFAULT_URL,
    pid: Pid = None,
    name: Name = "stack-start",
) -> None:
    stack = Stack.find(url, pid)
    deployed = stack.deployed(Kind.LM, model)
    say = Progress().say
    found: dict[str, list[float]] = {key: [] for key in STAGES}
    with Client(stack.url) as client:
        for _ in range(rounds):
            times = [*fresh_process(stack.folder(deployed).resolve()), *deploy_again(client, deployed)]
            for values, value in zip(found.values(), times, strict=True):
                values.append(value)
            say(f"fresh process {times[1]:.2f} s, deployment {times[3]:.2f} s")
            deployed = stack.deployed(Kind.LM, deployed.model)  # a new id
    report = Report(
        f"{deployed.label}, {stack.slots(deployed)} slots, {rounds} rounds, in turn."
        " Seconds, median (least to most):",
        [(IN_PROCESS, median(found["first_token"])), (DEPLOYED, median(found["first_answer"]))],
        markdown_table(("", "seconds"), [(STAGES[key], spread(found[key], ".2f")) for key in STAGES]),
        found,
    )
    publish(name, report)


def fresh_process(
    folder: Path, module: str = "bench.stack.first_token", root: Path = ROOT
) -> tuple[float, float]:
    """Seconds until its engine was loaded, and until it had a token. Raises LoadError.

    `module` prints the two times, as the one of this checkout does; `root` is the checkout that has it.
    """
    variables = {**os.environ, "PYTHONPATH": str(root)}
    begin = time.perf_counter()
    command = [sys.executable, "-m", module, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=root, env=variables)
    if ended.returncode:
        raise LoadError(f"the fresh process: {ended.stderr.strip().rpartition(chr(10))[2]}")
    loaded, token = map(float, ended.stdout.split())
    return loaded - begin, token - begin


def deploy_again(client: Client, deployed: Deployed) -> tuple[float, float]:
    """Seconds until it was deployed again, and until it had answered."""
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
