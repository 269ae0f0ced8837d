"""The schemas of Kubernetes' own kinds (kubernetes-validate), and of those that others bring."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

VERSIONS = ("1.30", "1.37")  # the oldest that the chart takes, and the newest that is published
FOLDER = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"


def faults(manifest: dict[str, Any], version: str) -> list[str]:
    """What this release of Kubernetes, or the schema of the kind's operator, finds wrong."""
    found = _validator(manifest["kind"], manifest["apiVersion"], version).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


@cache
def _validator(kind: str, api_version: str, version: str) -> Draft202012Validator:
    if (api_version, kind) in FOREIGN:
        return Draft202012Validator(FOREIGN[api_version, kind])
    group, _, number = api_version.rpartition("/")
    name = f"{kind}-{group.split('.')[0]}-{number}" if group else f"{kind}-{number}"
    folder = FOLDER / f"v{version}.0-local-strict"
    schema = json.loads((folder / f"{name.lower()}.json").read_text())
    registry: Registry[Any] = Resource.from_contents(schema) @ _definitions(folder)
    return Draft202012Validator(schema, registry=registry)


@cache
def _definitions(folder: Path) -> Registry[Any]:
    definitions = json.loads((folder / "_definitions.json").read_text())
    registry: Registry[Any] = Resource.from_contents(definitions) @ Registry()
    return registry.crawl()


def _object(required: str = "", /, **properties: Any) -> dict[str, Any]:
    fields = {"properties": properties, "required": required.split()}
    return {"type": "object", "additionalProperties": False, **fields}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": items}


def _kind(spec: dict[str, Any]) -> dict[str, Any]:
    metadata = _object("name namespace labels", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
    return _object("spec", apiVersion=TEXT, kind=TEXT, metadata=metadata, spec=spec)


TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
TEXTS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
DURATION: dict[str, Any] = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}
KEY = _object("name key", name=TEXT, key=TEXT)
SELECTOR = _object("matchLabels", matchLabels=TEXTS)
RELABELINGS = _list(
    _object(targetLabel=TEXT, replacement=TEXT, sourceLabels=_list(TEXT), regex=TEXT, action=TEXT)
)
ENDPOINT: dict[str, Any] = {"port": TEXT, "path": TEXT, "interval": DURATION, "relabelings": RELABELINGS}
MONITORED: dict[str, Any] = {**ENDPOINT, "metricRelabelings": RELABELINGS}
RULE = _object(
    "alert expr labels annotations",
    **{"alert": TEXT, "expr": TEXT, "for": DURATION, "labels": TEXTS, "annotations": TEXTS},
)
PROMETHEUS = _object(
    "serverAddress query threshold",
    serverAddress={"type": "string", "pattern": "^https?://"}, query=TEXT, threshold=TEXT,
)  # fmt: skip
# What the chart uses of them; from the definitions of KEDA 2, Prometheus operator 0.7x and Gateway API 1.
FOREIGN = {
    ("keda.sh/v1alpha1", "ScaledObject"): _kind(
        _object(
            "scaleTargetRef triggers",
            scaleTargetRef=_object("name", apiVersion=TEXT, kind=TEXT, name=TEXT),
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            pollingInterval=COUNT,
            advanced=_object(horizontalPodAutoscalerConfig=_object(behavior={"type": "object"})),
            fallback=_object("failureThreshold replicas", failureThreshold=COUNT, replicas=COUNT),
            triggers=_list(
                _object(
                    "type metadata",
                    type={"const": "prometheus"},
                    metricType={"enum": ["AverageValue", "Value"]},
                    metadata=PROMETHEUS,
                )
            ),
        )
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _kind(
        _object(
            "selector endpoints",
            selector=SELECTOR,
            endpoints=_list(
                _object(
                    "port",
                    **MONITORED,
                    scheme={"enum": ["http", "https"]},
                    tlsConfig=_object(serverName=TEXT, ca=_object("secret", secret=KEY)),
                    authorization=_object("credentials", credentials=KEY),
                )
            ),
        )
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): _kind(
        _object(
            "selector podMetricsEndpoints",
            selector=SELECTOR,
            podMetricsEndpoints=_list(_object("port", **ENDPOINT)),
        )
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _kind(
        _object("groups", groups=_list(_object("name rules", name=TEXT, rules=_list(RULE))))
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): _kind(
        _object(
            "parentRefs rules",
            parentRefs=_list(_object("name", name=TEXT, namespace=TEXT)),
            hostnames=_list(TEXT),
            rules=_list(
                _object(
                    "backendRefs",
                    matches=_list(
                        _object(path=_object(type={"enum": ["PathPrefix", "Exact"]}, value=TEXT))
                    ),
                    timeouts=_object(request=DURATION, backendRequest=DURATION),
                    backendRefs=_list(
                        _object("name port", name=TEXT, port={"type": "integer", "minimum": 1})
                    ),
                )
            ),
        )
    ),
}  # fmt: skip
