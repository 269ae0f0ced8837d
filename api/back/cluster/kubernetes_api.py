"""The API server of Kubernetes: lists, watches, and the deletion of a pod, through the official client.

Objects stay the JSON that they are: a server that is newer than the client may send values which the classes
of the client refuse. Rights that are needed: list, watch and delete of pods; list and watch of
endpointslices.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.config import incluster_config

from api.errors import ServerFault

CALL_SECONDS = 10.0
# After these the server ends a watch, and the next one goes on from the same place. So a connection that
# broke without a word is noticed, too.
WATCH_SECONDS = 60
SLOW_SECONDS = 10.0  # that the end of a watch may be late
MAX_RETRY_SECONDS = 60.0  # whatever Retry-After says
DELETE_GRACE_SECONDS = 5  # for a server that does not answer; then it is killed
DELETE_TRIES = 3

UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT, GONE, TOO_MANY = 401, 403, 404, 409, 410, 429


class KubernetesFault(ServerFault):
    """The API server refused a call, or was not reached. `status` is that of HTTP, None where none came."""

    def __init__(self, detail: str, status: int | None = None, retry_after: float = 0.0) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after = retry_after  # seconds


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of objects."""

    name: str
    group: str
    operation: str  # of the client: it lists, and watches


PODS = Resource("pods", "", "list_namespaced_pod")
ENDPOINT_SLICES = Resource("endpointslices", "discovery.k8s.io", "list_namespaced_endpoint_slice")


class KubernetesApi:
    def __init__(self, api_client: Any, namespace: str) -> None:
        self.namespace = namespace
        self._core = client.CoreV1Api(api_client)
        self._discovery = client.DiscoveryV1Api(api_client)

    @classmethod
    @asynccontextmanager
    async def open(cls, namespace: str) -> AsyncIterator[KubernetesApi]:
        """In a pod with its ServiceAccount, elsewhere as KUBECONFIG says. Raises KubernetesFault.

        An empty `namespace` is that of the pod, or of the current context.
        """
        configuration = client.Configuration()
        try:
            own = await _configure(configuration)
        except (config.ConfigException, OSError) as error:
            raise KubernetesFault(f"no access to Kubernetes is configured: {error}") from None
        async with client.ApiClient(configuration) as api_client:
            yield cls(api_client, namespace or own or "default")

    async def list(self, resource: Resource, selector: str) -> dict[str, Any]:
        """The list with its items. Raises KubernetesFault."""
        response = await self._call("list", resource, resource.operation, label_selector=selector)
        with _connection_faults():
            return cast(dict[str, Any], await response.json())

    @asynccontextmanager
    async def watch(
        self, resource: Resource, selector: str, version: str
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The changes since `version`, until the server ends the watch. Raises KubernetesFault."""
        response = await self._call(
            "watch",
            resource,
            resource.operation,
            seconds=WATCH_SECONDS + SLOW_SECONDS,
            label_selector=selector,
            resource_version=version,
            allow_watch_bookmarks=True,
            timeout_seconds=WATCH_SECONDS,
            watch=True,
        )
        try:
            yield self._events(response, resource)
        finally:
            if (connection := response.connection) is not None and connection.transport is not None:
                connection.transport.abort()  # TLS would wait for a farewell of the server, which goes on
            response.close()

    async def _events(
        self, response: aiohttp.ClientResponse, resource: Resource
    ) -> AsyncIterator[dict[str, Any]]:
        with _connection_faults():
            async for line in response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise self._refusal("watch", resource, event["object"].get("code"), event["object"], 0.0)
                yield event

    async def delete_pod(self, name: str, uid: str) -> None:
        """Delete this very pod, and none that has taken its name. Raises KubernetesFault.

        It may be gone already: another façade may have deleted it.
        """
        only = client.V1Preconditions(uid=uid)
        body = client.V1DeleteOptions(preconditions=only, grace_period_seconds=DELETE_GRACE_SECONDS)
        for tries_left in reversed(range(DELETE_TRIES)):
            try:
                response = await self._call("delete", PODS, "delete_namespaced_pod", name=name, body=body)
                response.release()
                return
            except KubernetesFault as fault:  # noqa: PERF203 - trying again is the point
                if fault.status in (NOT_FOUND, CONFLICT):
                    return
                if fault.status != TOO_MANY or not tries_left:
                    raise
                await asyncio.sleep(fault.retry_after)

    async def _call(
        self,
        verb: str,
        resource: Resource,
        operation: str,
        *,
        seconds: float = CALL_SECONDS,
        **arguments: Any,
    ) -> aiohttp.ClientResponse:
        group = self._discovery if resource is ENDPOINT_SLICES else self._core
        call: Callable[..., Awaitable[aiohttp.ClientResponse]] = getattr(
            group, f"{operation}_without_preload_content"
        )
        with _connection_faults():
            response = await call(namespace=self.namespace, _request_timeout=seconds, **arguments)
            if response.status < 400:
                return response
            body: Any = {}
            with suppress(ValueError, aiohttp.ContentTypeError):
                body = await response.json()
            retry_after = _retry_after(response)
            response.release()
        raise self._refusal(verb, resource, response.status, body, retry_after)

    def _refusal(
        self, verb: str, resource: Resource, status: int | None, body: Any, retry_after: float
    ) -> KubernetesFault:
        """Of an answer with an error, or of an event that is one: `body` is a `Status` of Kubernetes."""
        reason = body.get("message", "") if isinstance(body, dict) else ""
        text = f"the API server of Kubernetes answers {status} to {verb} {resource.name}: {reason}"
        if status == FORBIDDEN:
            text = (
                f"the right to {verb} {resource.name} in namespace {self.namespace!r} is missing: give the "
                f"Role of this ServiceAccount the verb {verb!r} on {resource.name!r} of the API group "
                f"{resource.group!r} ({reason})"
            )
        elif status == UNAUTHORIZED:
            text = "the API server of Kubernetes does not accept the token of this ServiceAccount"
        return KubernetesFault(text, status, retry_after)


async def _configure(configuration: Any) -> str:
    """Returns the namespace, empty where nothing names one."""
    if incluster_config.SERVICE_HOST_ENV_NAME in os.environ:
        config.load_incluster_config(configuration)
        return Path(incluster_config.SERVICE_TOKEN_FILENAME).with_name("namespace").read_text().strip()
    loaded = await config.load_kube_config(
        os.environ.get("KUBECONFIG"), client_configuration=configuration, persist_config=False
    )
    return str(loaded.current_context["context"].get("namespace", ""))


@contextmanager
def _connection_faults() -> Iterator[None]:
    """Raises KubernetesFault without a token, and where a connection breaks, stalls or sends half a line."""
    try:
        yield
    except asyncio.TimeoutError:
        raise KubernetesFault("the API server of Kubernetes does not answer in time") from None
    except config.ConfigException as error:  # the token is read again every minute, because it changes
        raise KubernetesFault(f"no access to Kubernetes is configured: {error}") from None
    except (aiohttp.ClientError, OSError, json.JSONDecodeError) as error:
        text = str(error) or type(error).__name__
        raise KubernetesFault(f"the connection to the API server of Kubernetes failed: {text}") from None


def _retry_after(response: aiohttp.ClientResponse) -> float:
    try:
        return min(MAX_RETRY_SECONDS, max(0.0, float(response.headers.get("Retry-After", "0"))))
    except ValueError:
        return 0.0
