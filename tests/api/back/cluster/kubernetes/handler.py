"""The HTTP side of the double of Kubernetes' API server."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from jsonschema import ValidationError

from tests.api.back.cluster.kubernetes.objects import (
    NAMESPACE,
    allowed,
    check_delete_options,
    check_schema,
    discovery,
    matches,
    status,
)

if TYPE_CHECKING:
    from tests.api.back.cluster.kubernetes.double import KubernetesDouble

GROUPS = {"pods": "", "endpointslices": "discovery.k8s.io"}
KINDS = {"pods": "Pod", "endpointslices": "EndpointSlice"}
ROOTS = {
    f"/api/v1/namespaces/{NAMESPACE}/pods": "pods",
    f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices": "endpointslices",
}
PARAMETERS = {
    "allowWatchBookmarks", "continue", "fieldManager", "fieldSelector", "gracePeriodSeconds", "labelSelector",
    "limit", "pretty", "resourceVersion", "resourceVersionMatch", "sendInitialEvents", "timeout",
    "timeoutSeconds", "watch",
}  # fmt: skip
DISCOVERY = discovery()


class Handler(BaseHTTPRequestHandler):
    double: KubernetesDouble
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Tests read `double.calls`."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        user = token.removesuffix("-token") if scheme.lower() == "bearer" else ""
        if user not in self.double.rules:
            self._send(401, status(401, "Unauthorized", "Unauthorized"))
        elif parts.path in DISCOVERY:
            self._send(200, DISCOVERY[parts.path])
        elif set(query) - PARAMETERS:
            self._send(400, status(400, "BadRequest", f"unknown parameters: {set(query) - PARAMETERS}"))
        else:
            self._route(method, user, parts.path, query, body)

    def _route(self, method: str, user: str, path: str, query: Mapping[str, str], body: Any) -> None:
        root = next((root for root in ROOTS if path == root or path.startswith(f"{root}/")), None)
        if root is None:
            self._send(404, status(404, "NotFound", "the server could not find the requested resource"))
            return
        resource, name = ROOTS[root], path[len(root) + 1 :] or None
        verb = {"GET": "get" if name else "list", "DELETE": "delete"}.get(method, "create")
        if verb == "list" and query.get("watch") in ("true", "1"):
            verb = "watch"
        self.double.calls.append((user, verb, resource))
        if not allowed(self.double.rules[user], verb, GROUPS[resource], resource, name):
            message = (
                f'{resource} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group '
                f'"{GROUPS[resource]}" in the namespace "{NAMESPACE}"'
            )
            self._send(403, status(403, "Forbidden", message))
            return
        for refusal in self.double.refusals:
            if refusal.verb == verb:
                self.double.refusals.remove(refusal)
                self._send(refusal.code, status(refusal.code, refusal.reason, "refused"), refusal.headers)
                return
        if verb == "watch":
            self._watch(resource, query)
        elif verb == "list":
            self._list(resource, query)
        elif name is not None:
            self._one(verb, resource, name, body)

    def _list(self, resource: str, query: Mapping[str, str]) -> None:
        with self.double.changed:
            items = [
                item
                for (each, _), item in sorted(self.double.objects.items())
                if each == resource and _chosen(item, query)
            ]
            version = str(self.double.version)
        group = GROUPS[resource]
        answer = {
            "apiVersion": f"{group}/v1" if group else "v1",
            "kind": f"{KINDS[resource]}List",
            "metadata": {"resourceVersion": version},
            "items": items,
        }
        check_schema(answer)
        self._send(200, answer)

    def _one(self, verb: str, resource: str, name: str, body: Any) -> None:
        double = self.double
        with double.changed:
            item = double.objects.get((resource, name))
            if item is None:
                self._send(404, status(404, "NotFound", f'{resource} "{name}" not found'))
                return
            if verb == "get":
                self._send(200, item)
                return
            problem = _deletion_problem(body, item)
            if problem is not None:
                self._send(problem["code"], problem)
                return
            if double.kubelet is None or resource != "pods":
                double.remove(resource, name)
            else:
                metadata = {
                    **item["metadata"],
                    "deletionTimestamp": "2026-11-29T12:00:30Z",
                    "deletionGracePeriodSeconds": body.get("gracePeriodSeconds", 30),
                }
                item = double.apply({**item, "metadata": metadata})
        self._send(200, item)
        if double.kubelet is not None and resource == "pods":
            double.kubelet(name)

    def _watch(self, resource: str, query: Mapping[str, str]) -> None:
        double = self.double
        seen = int(query.get("resourceVersion") or 0)
        end = time.monotonic() + float(query.get("timeoutSeconds", "3600"))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with double.changed:
            cuts = double.watches
        if seen < double.oldest:
            gone = status(410, "Expired", f"too old resource version: {seen} ({double.oldest})")
            self._chunk(json.dumps({"type": "ERROR", "object": gone}) + "\n")
            self._chunk("")
            return
        while (left := end - time.monotonic()) > 0:
            with double.changed:
                events = [event for event in double.events if event.version > seen and not double.stalled]
                if double.watches != cuts:
                    self._chunk('{"type": "MODIF')
                    self.close_connection = True
                    return
                if not events:
                    double.changed.wait(left)
                    continue
            for event in events:
                seen = event.version
                marks = event.type == "BOOKMARK" and query.get("allowWatchBookmarks") == "true"
                if event.resource == resource and (marks or _chosen(event.object, query)):
                    self._chunk(json.dumps({"type": event.type, "object": event.object}) + "\n")
        self._chunk("")

    def _chunk(self, text: str) -> None:
        """An empty one is the last."""
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())
        self.wfile.flush()

    def _send(self, code: int, item: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(item).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _chosen(item: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
    return "name" in item["metadata"] and matches(item, labels, fields)


def _deletion_problem(body: dict[str, Any], item: Mapping[str, Any]) -> dict[str, Any] | None:
    """Why `item` is not deleted as the `DeleteOptions` in `body` ask for."""
    try:
        check_delete_options(body)
    except ValidationError as error:
        return status(400, "BadRequest", str(error))
    wanted, found = body.get("preconditions", {}).get("uid"), item["metadata"]["uid"]
    if wanted in (None, found):
        return None
    return status(
        409, "Conflict", f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
    )
