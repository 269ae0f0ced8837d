"""A receiver of OpenTelemetry traces: OTLP over HTTP, read with OpenTelemetry's own messages."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Received:
    """A span as it came; ids in hexadecimal, times in nanoseconds."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    begin: int
    end: int
    failed: bool
    values: dict[str, Any]
    service: str


class Receiver:
    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Received] = []
        self.bodies: list[bytes] = []
        self.silent = threading.Event()  # while it is set, nothing is answered
        self.came = threading.Condition()

    def trace(self, trace_id: str, count: int) -> dict[str, Received]:
        """The spans of a trace by their names, once that many have come."""

        def found() -> list[Received]:
            return [span for span in self.spans if span.trace_id == trace_id]

        with self.came:
            assert self.came.wait_for(lambda: len(found()) >= count, WAIT_SECONDS), found()
            return {span.name: span for span in found()}

    def take(self, body: bytes) -> None:
        read = ExportTraceServiceRequest.FromString(body)
        with self.came:
            self.bodies.append(body)
            for resource in read.resource_spans:
                service = _values(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    self.spans += [_received(span, service) for span in scope.spans]
            self.came.notify_all()


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that listens on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if receiver.silent.is_set():
                closing.wait()
                return
            assert self.path == "/v1/traces"
            receiver.take(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None: ...

    closing = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _received(span: Any, service: str) -> Received:
    return Received(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == 2,
        _values(span.attributes),
        service,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
