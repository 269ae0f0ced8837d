"""A double of Kubernetes' API server for Helm: it keeps objects, and Jobs and Pods succeed at once.

It checks them with the published schemas. No package brings the real server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.helm.charts import NAMESPACE, Manifest
from tests.helm.kubernetes_schemas import VERSIONS, faults

RESOURCES = {
    "v1": {
        "ConfigMap": "configmaps", "PersistentVolumeClaim": "persistentvolumeclaims", "Pod": "pods",
        "Secret": "secrets", "Service": "services", "ServiceAccount": "serviceaccounts",
    },
    "apps/v1": {"Deployment": "deployments", "StatefulSet": "statefulsets"},
    "batch/v1": {"Job": "jobs"},
    "networking.k8s.io/v1": {"Ingress": "ingresses", "NetworkPolicy": "networkpolicies"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "rbac.authorization.k8s.io/v1": {"Role": "roles", "RoleBinding": "rolebindings"},
}  # fmt: skip
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


class Cluster:
    """`objects` by the resource's path; `history` has verb, kind and name of every change.

    `groups` are versions of API groups without resources, as another kind of cluster has them.
    """

    def __init__(self, *groups: str) -> None:
        self.resources: dict[str, dict[str, str]] = {**RESOURCES, **{group: {} for group in groups}}
        self.objects: dict[str, Manifest] = {}
        self.history: list[tuple[str, str, str]] = []
        self.version = 0
        self.lock = threading.Lock()

    def of_kind(self, kind: str) -> dict[str, Manifest]:
        return {item["metadata"]["name"]: item for item in self.objects.values() if item["kind"] == kind}

    def put(self, verb: str, path: str, item: Manifest) -> Manifest:
        self.version += 1
        before = self.objects.get(path, {"metadata": {"uid": f"uid-{self.version}"}})
        given = {"resourceVersion": str(self.version), "uid": before["metadata"]["uid"]}
        kept = {**item, "metadata": {**item["metadata"], **given}}
        if item["kind"] == "Job":
            kept["status"] = {"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1}
        if item["kind"] == "Pod":
            kept["status"] = {"phase": "Succeeded"}
        self.objects[path] = kept
        self.history.append((verb, item["kind"], item["metadata"]["name"]))
        return kept


@contextmanager
def running(*groups: str) -> Iterator[tuple[Cluster, str]]:
    """The cluster, and a kubeconfig that leads to it."""
    cluster = Cluster(*groups)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"cluster": cluster}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield cluster, _kubeconfig(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _kubeconfig(port: int) -> str:
    name = "double"
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": name, "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": name, "user": {}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": NAMESPACE}}],
        }
    )


class Handler(BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a head and its body leave together: TCP would hold back the second one for 40 ms

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Tests read `history`."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: found[0] for name, found in parse_qs(parts.query).items()}
        if query.get("sendInitialEvents") == "true":
            self._refuse(422, "Invalid", "sendInitialEvents: this server lists, and then watches")
        elif query.get("watch") == "true":
            self._watch()
        elif parts.path == "/openapi/v2":
            self._write(200, b"")  # a protocol buffer without definitions: the server checks by itself
        elif (known := _discovery(parts.path, self.cluster.resources)) is not None:
            self._send(200, known)
        elif (item := self.cluster.objects.get(parts.path)) is not None:
            self._send(200, item)
        elif parts.path.rpartition("/")[2] in _plurals():
            self._list(parts.path, query)
        else:
            self._refuse(404, "NotFound", f"{parts.path} is not there")

    def _list(self, path: str, query: dict[str, str]) -> None:
        name = query.get("fieldSelector", "").removeprefix("metadata.name=")
        with self.cluster.lock:
            inside = [item for where, item in self.cluster.objects.items() if where.startswith(f"{path}/")]
        items = [item for item in inside if name in ("", item["metadata"]["name"])]
        version, kind = _plurals()[path.rpartition("/")[2]]
        metadata = {"resourceVersion": str(self.cluster.version)}
        self._send(200, {"apiVersion": version, "kind": f"{kind}List", "metadata": metadata, "items": items})

    def _watch(self) -> None:
        """Nothing changes after it was listed: wait until the client leaves."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.flush()
        with suppress(OSError):
            self.connection.recv(1)

    def do_POST(self) -> None:
        self._store("create", lambda item: f"{urlsplit(self.path).path}/{item['metadata']['name']}")

    def do_PUT(self) -> None:
        self._store("update", lambda item: urlsplit(self.path).path)

    def do_PATCH(self) -> None:
        """Server-side apply: the body is the whole object."""
        assert self.headers["Content-Type"] == "application/apply-patch+yaml", self.headers["Content-Type"]
        self._store("apply", lambda item: urlsplit(self.path).path)

    def do_DELETE(self) -> None:
        self._body()
        path = urlsplit(self.path).path
        with self.cluster.lock:
            item = self.cluster.objects.pop(path, None)
            if item is None:
                self._refuse(404, "NotFound", f"{path} is not there")
                return
            self.cluster.history.append(("delete", item["kind"], item["metadata"]["name"]))
        self._send(200, item)

    def _store(self, verb: str, path_of: Any) -> None:
        item = yaml.safe_load(self._body())
        found = faults({key: value for key, value in item.items() if key != "status"}, VERSIONS[-1])
        if found:
            self._refuse(422, "Invalid", "; ".join(found))
            return
        with self.cluster.lock:
            path = path_of(item)
            if verb == "create" and path in self.cluster.objects:
                self._refuse(409, "AlreadyExists", f"{path} is there")
                return
            made = self.cluster.put(verb, path, item)
        self._send(201 if verb == "create" else 200, made)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _refuse(self, code: int, reason: str, message: str) -> None:
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
        self._send(code, {**body, "reason": reason, "message": message})

    def _send(self, code: int, item: Any) -> None:
        self._write(code, json.dumps(item).encode())

    def _write(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _plurals() -> dict[str, tuple[str, str]]:
    return {plural: (version, kind) for version, kinds in RESOURCES.items() for kind, plural in kinds.items()}


def _discovery(path: str, resources: dict[str, dict[str, str]]) -> Any:
    if path == "/version":
        return {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [version.split("/") for version in resources if "/" in version]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*parts) for parts in groups]}
    version = path.removeprefix("/api/").removeprefix("/apis/")
    if version not in resources:
        return None
    found = [
        {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": VERBS}
        for kind, plural in resources[version].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": found}


def _group(name: str, version: str) -> dict[str, Any]:
    served = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [served], "preferredVersion": served}
