"""Pods and EndpointSlices as a cluster makes them, and what Kubernetes publishes of their form."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

NAMESPACE = "inference"
LABELS = {"app.kubernetes.io/name": "lmaas", "app.kubernetes.io/component": "triton"}
SELECTOR = "app.kubernetes.io/component=triton,app.kubernetes.io/name=lmaas"
SCHEMAS = "1.37"
MOMENT = "2026-11-29T12:00:00Z"


def pod(
    name: str, *, phase: str = "Running", started: bool = True, labels: Mapping[str, str] = LABELS
) -> dict[str, Any]:
    """A new one each time: its uid differs."""
    running = {"running": {"startedAt": MOMENT}} if started else {"waiting": {"reason": "ContainerCreating"}}
    container = {
        "name": "triton",
        "image": "triton:test",
        "imageID": "",
        "ready": started,
        "started": started,
        "restartCount": 0,
        "state": running,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": secrets.token_hex(8),
            "labels": dict(labels),
            "creationTimestamp": MOMENT,
        },
        "spec": {"containers": [{"name": "triton", "image": "triton:test"}]},
        "status": {"phase": phase, "containerStatuses": [container]},
    }


def endpoint_slice(
    name: str,
    grpc: int,
    metrics: int,
    *,
    address: str = "127.0.0.1",
    ready: bool | None = True,
    uid: str | None = None,
) -> dict[str, Any]:
    """Of the Service, with the pod `name` alone: on this machine each pod has ports of its own.

    `uid` is that of the pod; None: the slice does not have it.
    """
    pod_uid = {} if uid is None else {"uid": uid}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"triton-{name}",
            "namespace": NAMESPACE,
            "uid": secrets.token_hex(8),
            "labels": {**LABELS, "kubernetes.io/service-name": "triton"},
        },
        "addressType": "IPv6" if ":" in address else "IPv4",
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {} if ready is None else {"ready": ready},
                "targetRef": {"kind": "Pod", "name": name, "namespace": NAMESPACE, **pod_uid},
            }
        ],
        "ports": [
            {"name": "grpc", "port": grpc, "protocol": "TCP"},
            {"name": "metrics", "port": metrics, "protocol": "TCP"},
        ],
    }


def check_schema(item: Mapping[str, Any]) -> None:
    """Raises kubernetes_validate.ValidationError where it is not of the published form."""
    kubernetes_validate.validate(dict(item), SCHEMAS, strict=True)


def check_delete_options(body: Mapping[str, Any]) -> None:
    """Raises jsonschema.ValidationError. Its schema lies under a group that clients do not write."""
    folder = f"kubernetes-json-schema/v{SCHEMAS}.0-local-strict"
    schema, definitions = (
        schema_contents(f"{folder}/{name}.json", SCHEMAS)
        for name in ("deleteoptions-meta-v1", "_definitions")
    )
    registry = [Resource.from_contents(schema), Resource.from_contents(definitions)] @ Registry()
    options = {"apiVersion": "v1", "kind": "DeleteOptions", **body}
    Draft202012Validator(schema, registry=registry).validate(options)


def allowed(
    rules: Sequence[Mapping[str, Any]], verb: str, group: str, resource: str, name: str | None
) -> bool:
    """Whether the rules of a Role permit it, as RBAC does: a request needs one rule that has all of it."""
    return any(
        {verb, "*"} & set(rule["verbs"])
        and {group, "*"} & set(rule["apiGroups"])
        and {resource, "*"} & set(rule["resources"])
        and (not rule.get("resourceNames") or name in rule["resourceNames"])
        for rule in rules
    )


def matches(item: Mapping[str, Any], labels: str, fields: str) -> bool:
    """Whether a label selector (`a=b,c`) and a field selector (`metadata.name=a`) choose it."""
    own = item["metadata"].get("labels", {})
    for term in filter(None, labels.split(",")):
        name, equal, value = term.partition("=")
        if name not in own or (equal and own[name] != value.removeprefix("=")):
            return False
    return not fields or fields == f"metadata.name={item['metadata']['name']}"


def status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


def discovery() -> dict[str, dict[str, Any]]:
    """What a client asks first, by path."""
    every = ["delete", "get", "list", "watch"]

    def resources(group_version: str, name: str, singular: str, kind: str) -> dict[str, Any]:
        of = {"name": name, "singularName": singular, "namespaced": True, "kind": kind, "verbs": every}
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group_version,
            "resources": [of],
        }

    version = {"groupVersion": "discovery.k8s.io/v1", "version": "v1"}
    group = {"name": "discovery.k8s.io", "versions": [version], "preferredVersion": version}
    return {
        "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]},
        "/api/v1": resources("v1", "pods", "pod", "Pod"),
        "/apis/discovery.k8s.io/v1": resources(
            "discovery.k8s.io/v1", "endpointslices", "endpointslice", "EndpointSlice"
        ),
    }
