"""Deployments: what is served, in which precision, with which share of the traffic."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.back.store.records import Capacity, DeploymentRecord
from api.errors import NotFound
from api.front.calls import json_answer, service
from api.front.endpoint import Endpoint
from api.front.schemas.models import DeploymentChange, Deployments, DeploymentView, DeployRequest

TAG = "Deployments"
DEPLOYMENTS = "/v1/deployments"
DEPLOYMENT = "/v1/deployments/{id}"


def find(request: Request) -> DeploymentRecord:
    """Raises NotFound."""
    wanted = request.path_params["id"]
    for record in service(request).backend.cluster.deployments():
        if record.id == wanted:
            return record
    raise NotFound(f"no deployment {wanted!r}; GET {DEPLOYMENTS} lists them")


async def deploy(request: Request, asked: DeployRequest) -> Response:
    middle = service(request)
    record = await middle.backend.cluster.deploy(
        asked.model,
        asked.version,
        asked.precision or middle.precision,
        asked.replicas,
        asked.traffic_weight,
        force=asked.force,
    )
    return json_answer(DeploymentView.of(record), 201, {"Location": f"{DEPLOYMENTS}/{record.id}"})


async def list_deployments(request: Request, _: Any) -> Response:
    records = service(request).backend.cluster.deployments()
    return json_answer(Deployments(data=[DeploymentView.of(record) for record in records]))


async def show_deployment(request: Request, _: Any) -> Response:
    return json_answer(DeploymentView.of(find(request)))


async def adjust(request: Request, change: DeploymentChange) -> Response:
    measured = change.capacity
    record = await service(request).backend.cluster.adjust(
        find(request).id,
        replicas=change.replicas,
        traffic_weight=change.traffic_weight,
        capacity=None if measured is None else Capacity(**measured.model_dump(mode="json")),
    )
    return json_answer(DeploymentView.of(record))


async def undeploy(request: Request, _: Any) -> Response:
    await service(request).backend.cluster.undeploy(find(request).id)
    return Response(status_code=204)


ENDPOINTS = (
    Endpoint(
        "POST",
        DEPLOYMENTS,
        deploy,
        "Deploy a version",
        TAG,
        body=DeployRequest,
        answers={201: DeploymentView},
    ),
    Endpoint("GET", DEPLOYMENTS, list_deployments, "List the deployments", TAG, answers={200: Deployments}),
    Endpoint("GET", DEPLOYMENT, show_deployment, "Show a deployment", TAG, answers={200: DeploymentView}),
    Endpoint(
        "PATCH",
        DEPLOYMENT,
        adjust,
        "Change replicas, traffic weight or measured capacity",
        TAG,
        body=DeploymentChange,
        answers={200: DeploymentView},
    ),
    Endpoint("DELETE", DEPLOYMENT, undeploy, "Undeploy", TAG, answers={204: None}),
)
