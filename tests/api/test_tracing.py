"""Traces, as a receiver of OpenTelemetry gets them."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from starlette.testclient import TestClient

from api import otlp
from api.app import create_app
from api.config import Settings
from api.environment import load_settings
from api.errors import Unavailable
from api.tracing import SILENT, TracingError, open_tracer
from tests.api.conftest import serving_client
from tests.api.fakes import FakeBack
from tests.api.receiver import Receiver, receiving
from tests.api.replies import refusing

SERVER, INTERNAL = 2, 1  # kinds of spans
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
SECRET = "zebra crossing"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@contextmanager
def traced(back: FakeBack, tmp_path: Path, receiver: Receiver) -> Iterator[TestClient]:
    settings = Settings(
        home=tmp_path, models=tmp_path / "none", drain_seconds=1, otlp_endpoint=f"{receiver.url}/"
    )
    with serving_client(create_app(settings, open_backend=back.open)) as client:
        yield client


def test_the_spans_of_a_request(back: FakeBack, tmp_path: Path, receiver: Receiver) -> None:
    with traced(back, tmp_path, receiver) as client:
        sent = {"prompt": SECRET, "stream": True}
        answer = client.post("/v1/generate", json=sent, headers={**CALLER, "X-Request-Id": "r1"})
        assert answer.status_code == 200
        spans = receiver.trace(TRACE, 4)
    assert set(spans) == {"POST /v1/generate", "task generate", "queue", "dispatch"}
    request, task = spans["POST /v1/generate"], spans["task generate"]
    assert (request.parent_id, request.kind, request.service) == (PARENT, SERVER, "lmaas")
    assert (task.parent_id, task.kind) == (request.span_id, INTERNAL)
    assert {spans[name].parent_id for name in ("queue", "dispatch")} == {task.span_id}
    assert request.values["http.route"] == "/v1/generate"
    assert request.values["http.response.status_code"] == 200
    assert request.values["lmaas.request.id"] == "r1"
    for span in (request, task):
        assert span.values["lmaas.task.type"] == "generate"
        assert span.values["gen_ai.response.model"] == "mini-lm"
        assert (span.values["gen_ai.usage.input_tokens"], span.values["gen_ai.usage.output_tokens"]) == (2, 3)
        assert span.values["lmaas.task.outcome"] == "done"
    assert request.begin <= task.begin <= spans["queue"].end <= spans["dispatch"].end <= request.end
    assert not any(SECRET.encode() in body for body in receiver.bodies)


def test_an_asynchronous_task_belongs_to_the_trace_of_its_submission(
    back: FakeBack, tmp_path: Path, receiver: Receiver
) -> None:
    with traced(back, tmp_path, receiver) as client:
        body = {"type": "next", "parameters": {"prompt": "a"}}
        assert client.post("/v1/tasks", json=body, headers=CALLER).status_code == 202
        spans = receiver.trace(TRACE, 4)
    assert spans["task next"].parent_id == spans["POST /v1/tasks"].span_id
    assert spans["dispatch"].parent_id == spans["task next"].span_id
    assert spans["task next"].values["lmaas.task.outcome"] == "done"


def test_errors_are_on_the_spans_without_their_words(
    back: FakeBack, tmp_path: Path, receiver: Receiver
) -> None:
    back.cluster.reply = refusing(Unavailable(SECRET))
    with traced(back, tmp_path, receiver) as client:
        assert client.post("/v1/generate", json={"prompt": "a"}, headers=CALLER).status_code == 503
        spans = receiver.trace(TRACE, 4)
    assert spans["POST /v1/generate"].values["error.type"] == "503"
    assert spans["task generate"].values["error.type"] == "unavailable"
    assert all(spans[name].failed for name in ("POST /v1/generate", "task generate", "dispatch"))
    assert not spans["queue"].failed
    assert not any(SECRET.encode() in body for body in receiver.bodies)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("traceparent", "00-" + "0" * 32 + f"-{PARENT}-01")],
        [("traceparent", "nonsense\x1b")],
        [("traceparent", CALLER["traceparent"])] * 2,
        [("tracestate", "a=b")],
    ],
)
def test_without_a_valid_parent_a_trace_begins(
    headers: list[tuple[str, str]], back: FakeBack, tmp_path: Path, receiver: Receiver
) -> None:
    with traced(back, tmp_path, receiver) as client:
        client.get("/health/ready")  # asked every few seconds: not traced
        sent = [(name.encode(), value.encode()) for name, value in headers]
        assert client.get("/v1/models/none", headers=sent).status_code == 404
    (span,) = receiver.spans
    assert (span.name, span.parent_id, span.failed) == ("GET /v1/models/{name}", "", False)
    assert span.trace_id != TRACE


def test_the_caller_and_the_standard_variables_choose_what_is_sampled(
    back: FakeBack, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with traced(back, tmp_path, receiver) as client:
        client.get("/v1/models", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with traced(back, tmp_path, receiver) as client:
        client.get("/v1/models", headers=CALLER)
    assert receiver.spans == []


def test_a_standard_variable_names_the_receiver(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    tracer = open_tracer(None)
    assert tracer is not None
    tracer.begin("GET", []).end()
    tracer.close()
    assert [(span.name, span.service) for span in receiver.spans] == [("GET", "mine")]


def test_a_receiver_that_does_not_answer_holds_up_nothing(
    back: FakeBack, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a request, and the stop for a bounded time: the test's own limit is the verdict."""
    monkeypatch.setattr(otlp, "MAX_WAITING", 2)
    receiver.silent.set()
    with traced(back, tmp_path, receiver) as client:
        for _ in range(20):
            assert client.post("/v1/next", json={"prompt": "a"}).status_code == 200
    assert receiver.spans == []


class Stuck(SpanExporter):
    """Takes one batch, and is busy with it until it is let go."""

    def __init__(self) -> None:
        self.taken: queue.Queue[int] = queue.Queue()
        self.go_on = threading.Event()

    def export(self, spans: object) -> SpanExportResult:
        self.taken.put(len(spans))  # type: ignore[arg-type]
        self.go_on.wait()
        return SpanExportResult.SUCCESS


def ended_span() -> ReadableSpan:
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("s")
    span.end()
    assert isinstance(span, ReadableSpan)
    return span


def test_spans_beyond_the_bound_are_dropped_with_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(otlp, "MAX_WAITING", 5)
    monkeypatch.setattr(otlp, "MAX_BATCH", 1)
    exporter = Stuck()
    sender, span = otlp.SpanSender(exporter), ended_span()
    sender.on_end(span)
    assert exporter.taken.get(timeout=20) == 1
    for _ in range(50):
        sender.on_end(span)
    exporter.go_on.set()
    sender.shutdown()
    assert exporter.taken.qsize() == 5
    said = [record.message for record in caplog.records if record.name == "api.otlp"]
    assert said == ["spans are dropped: the receiver of traces is slow or away"]


def test_off_by_default() -> None:
    assert open_tracer(None, {"OTEL_SERVICE_NAME": "x"}) is None
    assert open_tracer("http://127.0.0.1:4318", {"OTEL_TRACES_EXPORTER": "none"}) is None
    assert load_settings({}).otlp_endpoint is None
    with SILENT.child("a") as span:
        assert span.trace_id is None


def test_a_protocol_that_is_not_spoken_is_refused() -> None:
    with pytest.raises(TracingError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'.*4318"):
        open_tracer("http://127.0.0.1:4317", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})


def test_without_the_packages_one_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "api.otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(TracingError, match="lmaas\\[tracing\\]"):
        open_tracer("http://127.0.0.1:4318")
