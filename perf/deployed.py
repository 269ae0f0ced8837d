"""What a running appliance serves: its deployments with the task of each, and its model servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from client.http import Client
from perf.errors import PlanError
from perf.http.ask import Task
from runtime.contract import Kind, Variant

ENTAILMENT = "entailment"  # a classifier with this label judges pairs


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployment that is ready, and the task that its model is made for."""

    id: str
    model: str
    version: int
    precision: str
    kind: Kind
    task: Task
    kernels: str = ""  # what computes int8 on its servers, as /v1/servers says

    @property
    def label(self) -> str:
        computed = f" ({self.kernels})" if self.kernels and self.precision == Variant.INT8.value else ""
        return f"{self.model} version {self.version} {self.precision}{computed}"


def find_deployed(url: str, wanted: Sequence[str] = ()) -> list[Deployed]:
    """The ready deployments; with `wanted`, only these ids or models. Raises PlanError and ClientError."""
    with Client(url) as client:
        records = client.call("GET", "/v1/deployments")["data"]
        ready = [record for record in records if record["state"] == "ready"]
        for name in wanted:
            if not any(name in (record["id"], record["model"]) for record in ready):
                raise PlanError(f"no ready deployment has the id or model {name!r}; see `lmaas deployments`")
        if not ready:
            raise PlanError(f"nothing is ready at {url}; see `lmaas deployments`")
        servers = client.call("GET", "/v1/servers")["data"]
        return [
            _deployed(client, record, servers)
            for record in ready
            if not wanted or record["id"] in wanted or record["model"] in wanted
        ]


def check_alone(deployed: Sequence[Deployed], wanted: Deployed) -> None:
    """Raises PlanError where the model has several deployments: a request names only the model."""
    same = [each.id for each in deployed if each.model == wanted.model]
    if len(same) > 1:
        raise PlanError(
            f"{wanted.model} has {len(same)} deployments ({', '.join(same)}), among which its requests are"
            " spread: undeploy all but the one to be measured"
        )


def _deployed(client: Client, record: dict[str, Any], servers: list[dict[str, Any]]) -> Deployed:
    name, version = record["model"], record["version"]
    view = client.call("GET", f"/v1/models/{quote(name, safe='')}/versions/{version}")
    kind = Kind(view["kind"])
    holders = [server for server in servers if f"{name}/{version}" in server["models"]]
    kernels = ", ".join(sorted({each["kernels"] for each in holders if each.get("kernels")}))
    task = _task(kind, view["labels"])
    return Deployed(record["id"], name, version, record["precision"], kind, task, kernels)


def _task(kind: Kind, labels: list[str]) -> Task:
    if kind is not Kind.CLASSIFIER:
        return Task.GENERATE if kind is Kind.LM else Task.NLU
    judges_pairs = ENTAILMENT in (label.lower() for label in labels)
    return Task.INFER if judges_pairs else Task.CLASSIFY


def grpc_address(url: str, deployed: Deployed) -> str:
    """HOST:PORT of a Triton that holds it. Raises PlanError."""
    with Client(url) as client:
        servers = client.call("GET", "/v1/servers")["data"]
    for server in servers:
        if server["state"] == "ready" and f"{deployed.model}/{deployed.version}" in server["models"]:
            return str(server["grpc_address"])
    raise PlanError(f"no server that is ready holds {deployed.label}; `lmaas servers` shows their states")
