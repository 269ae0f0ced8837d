"""A double of Kubernetes' API server for pods and EndpointSlices, over real HTTPS, in this process.

It checks what the real one checks: the token, the rules of a Role, the published form of objects, resource
versions, preconditions. No package brings the real one. Tests make its state, and the faults.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.api.back.cluster.kubernetes.handler import Handler
from tests.api.back.cluster.kubernetes.objects import NAMESPACE, check_schema
from tests.api.certificate import write_certificate
from tests.e2e.appliance import free_port

FACADE, ADMIN = "facade", "admin"  # users, by whose names their tokens begin
EVERYTHING = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
ROLE = Path(__file__).resolve().parents[5] / "helm" / "templates" / "role.yaml"


def rules_of_role(pods: Sequence[str]) -> list[dict[str, list[str]]]:
    """Those of the chart's Role, where `pods` are the names of Triton's."""
    text = ROLE.read_text().partition("\nrules:\n")[2].partition("\n---\n")[0]
    rules: list[dict[str, list[str]]] = yaml.safe_load(
        text.replace('{{ include "lmaas.tritonPods" . }}', ", ".join(pods))
    )
    return rules


RULES = rules_of_role([f"triton-{number}" for number in range(8)])


@dataclass(frozen=True)
class Event:
    version: int
    resource: str
    type: str
    object: Mapping[str, Any]


@dataclass(frozen=True)
class Refusal:
    """What the next call of a verb is answered."""

    verb: str
    code: int
    reason: str
    headers: Mapping[str, str] = field(default_factory=dict)


class KubernetesDouble:
    def __init__(self, folder: Path, rules: Sequence[Mapping[str, Any]] = RULES) -> None:
        self.rules: dict[str, Sequence[Mapping[str, Any]]] = {FACADE: rules, ADMIN: EVERYTHING}
        self.changed = threading.Condition()  # held for all that follows
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}  # by resource and name
        self.events: list[Event] = []
        self.version = 1
        self.oldest = 0  # the server has forgotten the events up to this version
        self.stalled = False  # watches are open, and say nothing
        self.watches = 0  # counts cuts: a watch ends when it has changed
        self.refusals: list[Refusal] = []
        self.calls: list[tuple[str, str, str]] = []  # user, verb, resource
        self.kubelet: Callable[[str], None] | None = None  # ends a deleted pod, and removes it
        self._folder = folder
        certificate, key = write_certificate(folder)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._port = free_port()
        self._connections: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None
        self.up()

    def up(self) -> None:
        """Answer at the port, from now on."""
        double = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def process_request(self, request: Any, client_address: Any) -> None:
                double._connections.add(request)
                super().process_request(request, client_address)

            def shutdown_request(self, request: Any) -> None:
                double._connections.discard(request)
                super().shutdown_request(request)

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that leaves is no event."""

        self._server = Server(("127.0.0.1", self._port), type("Bound", (Handler,), {"double": self}))
        self._server.socket = self._context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def down(self) -> None:
        """Listen no more, and break all connections."""
        assert self._server is not None
        self._server.shutdown()
        self.cut()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._server = None

    def close(self) -> None:
        if self._server is not None:
            self.down()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    def kubeconfig(self, user: str) -> Path:
        """A file for KUBECONFIG with that user's token."""
        path = self._folder / f"{user}.json"
        certificate = str(self._folder / "cert.pem")
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {"name": "test", "cluster": {"server": self.url, "certificate-authority": certificate}}
            ],
            "users": [{"name": user, "user": {"token": f"{user}-token"}}],
            "contexts": [
                {"name": "test", "context": {"cluster": "test", "user": user, "namespace": NAMESPACE}}
            ],
        }
        path.write_text(json.dumps(content))
        return path

    def apply(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Create the object, or change it."""
        check_schema(item)
        resource = {"Pod": "pods", "EndpointSlice": "endpointslices"}[item["kind"]]
        key = resource, item["metadata"]["name"]
        with self.changed:
            return self._record("MODIFIED" if key in self.objects else "ADDED", resource, item)

    def remove(self, resource: str, name: str) -> None:
        with self.changed:
            self._record("DELETED", resource, self.objects.pop((resource, name)))

    def _record(self, kind: str, resource: str, item: Mapping[str, Any]) -> dict[str, Any]:
        self.version += 1
        metadata = {**item["metadata"], "resourceVersion": str(self.version)}
        made = {**item, "metadata": metadata}
        if kind != "DELETED":
            self.objects[resource, metadata["name"]] = made
        self.events.append(Event(self.version, resource, kind, made))
        self.changed.notify_all()
        return made

    def forget(self) -> None:
        """Watches from before now are answered 410."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self.events.clear()

    def cut(self) -> None:
        """End all watches in the middle of a line."""
        with self.changed:
            self.watches += 1
            self.changed.notify_all()

    @contextmanager
    def slow(self) -> Iterator[None]:
        """Within the block no watch says anything."""
        self.stalled = True
        try:
            yield
        finally:
            with self.changed:
                self.stalled = False
                self.changed.notify_all()

    def bookmark(self) -> None:
        """Say to all watches which version they have seen."""
        with self.changed:
            self.version += 1
            for resource, kind in (("pods", "Pod"), ("endpointslices", "EndpointSlice")):
                item = {"kind": kind, "metadata": {"resourceVersion": str(self.version)}}
                self.events.append(Event(self.version, resource, "BOOKMARK", item))
            self.changed.notify_all()

    def count(self, verb: str, resource: str = "pods") -> int:
        """How often the façade has called that."""
        return self.calls.count((FACADE, verb, resource))
