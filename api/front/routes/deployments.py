"""Deployments: what is served, in which precision, with which share of the traffic."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.back.store.records import Autoscale, CanaryPolicy, Capacity
from api.caller import Scope
from api.front.calls import caller, json_answer, service
from api.front.endpoint import Endpoint
from api.front.schemas.deployments import (
    AutoscaleView,
    DeploymentChange,
    Deployments,
    DeploymentView,
    DeployRequest,
)

TAG = "Deployments"
DEPLOYMENTS = "/v1/deployments"
DEPLOYMENT = "/v1/deployments/{id}"


async def deploy(request: Request, asked: DeployRequest) -> Response:
    record = await service(request).models.deploy(
        caller(request),
        asked.model,
        asked.version,
        asked.precision,
        asked.replicas,
        asked.traffic_weight,
        force=asked.force,
        canary=None if asked.canary is None else CanaryPolicy(**asked.canary.model_dump()),
        autoscale=_autoscale(asked.autoscale),
    )
    return json_answer(DeploymentView.of(record), 201, {"Location": f"{DEPLOYMENTS}/{record.id}"})


async def list_deployments(request: Request, _: Any) -> Response:
    records = service(request).models.deployments()
    return json_answer(Deployments(data=[DeploymentView.of(record) for record in records]))


async def show_deployment(request: Request, _: Any) -> Response:
    return json_answer(DeploymentView.of(service(request).models.deployment(request.path_params["id"])))


async def adjust(request: Request, change: DeploymentChange) -> Response:
    """A replacement comes first: where it fails, nothing has changed."""
    measured, models, deployment_id = change.capacity, service(request).models, request.path_params["id"]
    if change.version is not None or change.precision is not None:
        await models.replace(
            caller(request),
            deployment_id,
            version=change.version,
            precision=change.precision,
            force=change.force,
        )
    record = await models.adjust(
        caller(request),
        deployment_id,
        replicas=change.replicas,
        traffic_weight=change.traffic_weight,
        capacity=None if measured is None else Capacity(**measured.model_dump(mode="json")),
        canary=None if change.canary is None else CanaryPolicy(**change.canary.model_dump()),
        ends_canary="canary" in change.model_fields_set and change.canary is None,
        autoscale=_autoscale(change.autoscale),
    )
    return json_answer(DeploymentView.of(record))


def _autoscale(asked: AutoscaleView | None) -> Autoscale | None:
    return None if asked is None else Autoscale(**asked.model_dump())


async def undeploy(request: Request, _: Any) -> Response:
    await service(request).models.undeploy(caller(request), request.path_params["id"])
    return Response(status_code=204)


ENDPOINTS = (
    Endpoint(
        "POST",
        DEPLOYMENTS,
        deploy,
        "Deploy a version",
        TAG,
        scope=Scope.MODELS_WRITE,
        body=DeployRequest,
        answers={201: DeploymentView},
    ),
    Endpoint(
        "GET",
        DEPLOYMENTS,
        list_deployments,
        "List the deployments",
        TAG,
        scope=Scope.MODELS_READ,
        answers={200: Deployments},
    ),
    Endpoint(
        "GET",
        DEPLOYMENT,
        show_deployment,
        "Show a deployment",
        TAG,
        scope=Scope.MODELS_READ,
        answers={200: DeploymentView},
    ),
    Endpoint(
        "PATCH",
        DEPLOYMENT,
        adjust,
        "Replace the version or precision while it serves; change replicas, weight, canary, scaling",
        TAG,
        scope=Scope.MODELS_WRITE,
        body=DeploymentChange,
        answers={200: DeploymentView},
    ),
    Endpoint("DELETE", DEPLOYMENT, undeploy, "Undeploy", TAG, scope=Scope.MODELS_WRITE, answers={204: None}),
)
