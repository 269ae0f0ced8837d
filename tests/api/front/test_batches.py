"""Batches over HTTP, as OpenAI's own client submits, follows and cancels them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch
from starlette.testclient import TestClient

from api.app import create_app
from api.back.store.batches import BatchStore
from api.back.store.records import BatchState
from api.caller import SCOPE_GROUPS, Caller, Limits
from api.config import Settings
from api.errors import RateLimited, StoreUnavailable, Unavailable
from api.front.batch_lines import TASKS
from api.front.routes import ENDPOINTS
from api.middle import batch_input, batch_runner, batches
from api.middle.allowances import Allowances
from tests.api.asgi import Call, until
from tests.api.conftest import Run, running, serving_client
from tests.api.front.test_files import asker
from tests.api.front.test_streams import Gate
from tests.api.stored import StoredBack, stored

ENDPOINT = "/v1/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(batch_runner, "FLUSH_SECONDS", 0.01)


@pytest.fixture
def back() -> StoredBack:
    return stored()


@pytest.fixture
def mine(client: TestClient) -> openai.OpenAI:
    return asker(client)


def line(custom_id: str, body: Mapping[str, Any], url: str = ENDPOINT, **other: Any) -> bytes:
    fields = {"custom_id": custom_id, "method": "POST", "url": url, "body": body, **other}
    return json.dumps(fields).encode() + b"\n"


def completions(count: int) -> bytes:
    return b"".join(line(f"c{number}", {"prompt": f"p{number}"}) for number in range(count))


def submit(asked: openai.OpenAI, data: bytes, endpoint: Any = ENDPOINT, **other: Any) -> Batch:
    file = asked.files.create(file=("in.jsonl", data), purpose="batch")
    return asked.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **other)


def reaches(asked: openai.OpenAI, batch: Batch, found: Callable[[Batch], object]) -> Batch:
    """The batch, once `found` holds for it."""
    end = time.monotonic() + 30
    while not found(batch):
        assert time.monotonic() < end, batch
        time.sleep(0.005)
        batch = asked.batches.retrieve(batch.id)
    return batch


def ended(asked: openai.OpenAI, batch: Batch) -> Batch:
    return reaches(asked, batch, lambda now: now.status in ENDED)


def content(asked: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    """The lines of a file by their custom ids, each of which comes once."""
    if file_id is None:
        return {}
    lines = [json.loads(text) for text in asked.files.content(file_id).text.splitlines()]
    found = {item["custom_id"]: item for item in lines}
    assert len(found) == len(lines)
    return found


def test_a_batch_from_upload_to_its_files(mine: openai.OpenAI) -> None:
    data = completions(3) + line("wrong", {"prompt": "a", "max_tokens": -1}) + line("none", {"model": "x"})
    batch = submit(mine, data, metadata={"night": "12"})
    assert (batch.object, batch.endpoint, batch.completion_window) == ("batch", ENDPOINT, "24h")
    assert batch.expires_at == batch.created_at + 24 * 3600
    batch = ended(mine, batch)
    assert (batch.status, batch.metadata) == ("completed", {"night": "12"})
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 5, "completed": 3, "failed": 2}
    assert batch.created_at <= (batch.in_progress_at or 0) <= (batch.finalizing_at or 0)
    assert (batch.completed_at or 0) >= (batch.finalizing_at or 0)
    done = content(mine, batch.output_file_id)
    assert list(done) == ["c0", "c1", "c2"]
    answer = done["c1"]
    assert (set(answer), answer["error"]) == ({"id", "custom_id", "response", "error"}, None)
    assert answer["id"] == f"batch_req_{answer['response']['request_id']}"
    assert answer["response"]["status_code"] == 200
    openai.types.Completion.model_validate(answer["response"]["body"])
    failed = content(mine, batch.error_file_id)
    assert {name: item["response"]["status_code"] for name, item in failed.items()} == {
        "wrong": 400,
        "none": 404,
    }
    assert failed["wrong"]["response"]["body"]["error"]["param"] == "max_tokens"
    file = mine.files.retrieve(batch.output_file_id or "")
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"prompt": ["a", "b"], "n": 2, "logprobs": 1, "seed": -3}),
        ("/v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64"}),
        ("/v1/generate", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True}),
        ("/v1/classify", {"input": "a"}),
        ("/v1/infer", {"premise": "a", "hypothesis": "b"}),
        ("/v1/nlu", {"input": "a"}),
        ("/v1/next", {"prompt": "a", "top_k": 3}),
        ("/v1/score", {"prompt": "a", "continuations": ["b", "c"]}),
    ],
)
def test_every_route_answers_a_line_as_it_answers_a_request(
    client: TestClient, mine: openai.OpenAI, endpoint: str, body: dict[str, Any]
) -> None:
    batch = ended(mine, submit(mine, line("a", body, endpoint), endpoint))
    (answer,) = content(mine, batch.output_file_id).values()
    single = client.post(endpoint, json=body).json()
    for changing in ("id", "created", "timings"):
        for found in (single, answer["response"]["body"]):
            found.pop(changing, None)
    assert answer["response"]["body"] == single


def test_every_route_that_a_model_answers_can_be_asked_in_batches() -> None:
    """But for vLLM's, which no batch needs."""
    computing = {item.path for item in ENDPOINTS if item.method == "POST" and item.scope == "infer"}
    assert computing - set(TASKS) == {"/tokenize", "/detokenize"}
    assert set(TASKS) < computing


@pytest.mark.parametrize(
    ("data", "code", "number", "param"),
    [
        (completions(1) + line("c0", {"prompt": "a"}), "duplicate_custom_id", 2, "custom_id"),
        (line("a", {"prompt": "a"}, "/v1/embeddings"), "invalid_url", 1, "url"),
        (line("a", {"prompt": "a"}, method="GET"), "invalid_method", 1, "method"),
        (line("a", {"prompt": "a", "stream": True}), "invalid_value", 1, "body.stream"),
        (line("a", {"prompt": "a", "deadline_ms": 5}), "invalid_value", 1, "body.deadline_ms"),
        (b'{"custom_id": "a"', "invalid_json_line", 1, None),
        (b"\n[]\n", "invalid_value", 2, "request"),
        (
            b'{"custom_id": "a", "method": "POST", "url": "/v1/completions"}',
            "missing_required_parameter",
            1,
            "body",
        ),
        (line("", {"prompt": "a"}), "invalid_value", 1, "custom_id"),
        (line("a", {"prompt": "a"}, priority=1), "invalid_value", 1, "priority"),
        (completions(1) + line("b", {"prompt": "x" * 3000}), "line_too_large", 2, None),
        (completions(6), "too_many_requests", None, None),
        (b" \n\n", "empty_file", None, None),
    ],
)
def test_a_file_with_a_wrong_line_is_refused_as_a_whole(
    client: TestClient,
    mine: openai.OpenAI,
    back: StoredBack,
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
    code: str,
    number: int | None,
    param: str | None,
) -> None:
    monkeypatch.setattr(batch_input, "MAX_LINES", 5)
    monkeypatch.setattr(batch_input, "ENVELOPE_BYTES", 2500 - client.app.state.settings.max_body_bytes)  # type: ignore[attr-defined]
    batch = ended(mine, submit(mine, data))
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    (error,) = batch.errors.data
    assert (error.code, error.line, error.param) == (code, number, param)
    assert error.message
    assert (batch.output_file_id, batch.error_file_id) == (None, None)
    assert back.cluster.requests == []


def test_errors_are_bounded(mine: openai.OpenAI) -> None:
    batch = ended(mine, submit(mine, b"x\n" * 1000))
    assert batch.errors is not None
    assert len(batch.errors.data or ()) == batch_input.MAX_ERRORS


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/models"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"output_expires_after": {}}, "output_expires_after"),
    ],
)
def test_wrong_submissions(client: TestClient, change: dict[str, Any], param: str) -> None:
    body = {"input_file_id": "file-x", "endpoint": ENDPOINT, "completion_window": "24h", **change}
    answer = client.post("/v1/batches", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_the_input_must_be_an_upload(mine: openai.OpenAI) -> None:
    batch = ended(mine, submit(mine, completions(1)))
    create: dict[str, Any] = {"endpoint": ENDPOINT, "completion_window": "24h"}
    with pytest.raises(openai.BadRequestError, match="purpose 'batch_output'"):
        mine.batches.create(input_file_id=batch.output_file_id or "", **create)
    with pytest.raises(openai.NotFoundError, match="'file-none' does not exist"):
        mine.batches.create(input_file_id="file-none", **create)


def test_cancel_keeps_what_is_done(mine: openai.OpenAI, back: StoredBack) -> None:
    held = back.cluster.reply
    gate = Gate()

    async def reply(text: str, parameters: Any, operation: Any) -> Any:
        async for piece in (gate.reply if text == "hold" else held)(text, parameters, operation):
            yield piece

    back.cluster.reply = reply
    data = completions(2) + b"".join(line(f"h{number}", {"prompt": "hold"}) for number in range(9))
    batch = submit(mine, data)
    reaches(mine, batch, lambda now: now.request_counts and now.request_counts.completed == 2)
    with pytest.raises(openai.ConflictError, match="cancel the batch first"):
        mine.files.delete(batch.input_file_id)
    asked = mine.batches.cancel(batch.id)
    assert asked.status == "cancelling"
    batch = ended(mine, asked)
    assert (batch.status, back.cluster.running) == ("cancelled", 0)
    assert batch.cancelled_at is not None
    assert list(content(mine, batch.output_file_id)) == ["c0", "c1"]
    rest = content(mine, batch.error_file_id)
    assert set(rest) == {f"h{number}" for number in range(9)}
    assert {item["error"]["code"] for item in rest.values()} == {"batch_cancelled"}
    assert mine.batches.cancel(batch.id).status == "cancelled"
    mine.files.delete(batch.input_file_id)


def test_what_is_over_cannot_be_cancelled(mine: openai.OpenAI) -> None:
    batch = ended(mine, submit(mine, completions(1)))
    with pytest.raises(openai.ConflictError, match="is completed"):
        mine.batches.cancel(batch.id)


def test_what_is_not_done_in_its_window_expires(
    mine: openai.OpenAI, back: StoredBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "WINDOW", timedelta(seconds=0.5))
    back.cluster.reply = Gate().reply
    batch = ended(mine, submit(mine, completions(7)))
    assert (batch.status, batch.output_file_id) == ("expired", None)
    rest = content(mine, batch.error_file_id)
    assert list(rest) == [f"c{number}" for number in range(7)]
    assert all(
        item["response"] is None and item["error"]["code"] == "batch_expired" for item in rest.values()
    )


def test_list_and_pages(mine: openai.OpenAI) -> None:
    made = [ended(mine, submit(mine, completions(1))).id for _ in range(3)]
    assert [batch.id for batch in mine.batches.list(limit=2)] == made[::-1]  # the client goes on
    page = mine.batches.list(limit=1, after=made[2])
    assert ([batch.id for batch in page.data], page.has_more) == ([made[1]], True)


def test_a_server_that_is_away_is_tried_again(
    mine: openai.OpenAI, back: StoredBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_runner, "LONGEST_WAIT", 0.001)
    scripted, tries = back.cluster.reply, 0

    async def reply(text: str, parameters: Any, operation: Any) -> Any:
        nonlocal tries
        tries += 1
        if text == "p1" or tries <= 3:
            raise Unavailable("the model server is away")
        async for piece in scripted(text, parameters, operation):
            yield piece

    back.cluster.reply = reply
    batch = ended(mine, submit(mine, completions(3)))
    assert set(content(mine, batch.output_file_id)) == {"c0", "c2"}
    assert content(mine, batch.error_file_id)["c1"]["response"]["status_code"] == 503


def test_lines_are_least_urgent_and_run_few_at_once(settings: Settings, back: StoredBack) -> None:
    most = 0

    async def reply(text: str, parameters: Any, operation: Any) -> Any:
        nonlocal most
        most = max(most, back.cluster.running)
        async for piece in scripted(text, parameters, operation):
            yield piece

    scripted = back.cluster.reply
    back.cluster.reply = reply
    app = create_app(settings.model_copy(update={"batch_slots": 3}), open_backend=back.open)
    with serving_client(app) as client:
        mine = asker(client)
        data = b"".join(line(f"c{number}", {"prompt": ["a", "b"], "priority": -5}) for number in range(20))
        batch = ended(mine, submit(mine, data))
        assert batch.status == "completed"
    assert {parameters["priority"] for _, parameters, _ in back.cluster.requests} == {100}
    assert 1 <= most <= 3


def test_the_answers_are_bounded(settings: Settings, back: StoredBack) -> None:
    app = create_app(settings.model_copy(update={"max_file_bytes": 2000}), open_backend=back.open)
    with serving_client(app) as client:
        mine = asker(client)
        batch = ended(mine, submit(mine, completions(15)))
        done, failed = content(mine, batch.output_file_id), content(mine, batch.error_file_id)
        assert set(done) | set(failed) == {f"c{number}" for number in range(15)}
        assert done
        assert {item["error"]["code"] for item in failed.values()} == {"output_too_large"}
        assert mine.files.retrieve(batch.output_file_id or "").bytes <= 2000


def test_batches_under_way_are_bounded(settings: Settings, back: StoredBack) -> None:
    app = create_app(settings.model_copy(update={"max_batches_per_caller": 2}), open_backend=back.open)
    back.cluster.reply = Gate().reply
    with serving_client(app) as client:
        mine = asker(client)
        submitted = [submit(mine, completions(1)) for _ in range(2)]
        with pytest.raises(openai.RateLimitError, match="2 of your batches are under way"):
            submit(mine, completions(1))
        mine.batches.cancel(submitted[0].id)
        ended(mine, submitted[0])
        submit(mine, completions(1))


@pytest.fixture
def keyed(settings: Settings, back: StoredBack) -> Iterator[TestClient]:
    app = create_app(settings.model_copy(update={"access": "keys"}), open_backend=back.open)
    with serving_client(app) as client:
        yield client


def test_another_caller_s_batches_are_not_there(keyed: TestClient, back: StoredBack) -> None:
    mine, other, admin = (
        asker(keyed, back.keys.add(name, SCOPE_GROUPS[group])[1])
        for name, group in (("mine", "inference"), ("other", "inference"), ("admin", "admin"))
    )
    batch = ended(mine, submit(mine, completions(1)))
    assert list(other.batches.list()) == []
    for ask in (other.batches.retrieve, other.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            ask(batch.id)
    with pytest.raises(openai.NotFoundError):
        other.files.content(batch.output_file_id or "")
    with pytest.raises(openai.NotFoundError):
        other.batches.create(
            input_file_id=batch.input_file_id, endpoint="/v1/completions", completion_window="24h"
        )
    assert admin.batches.retrieve(batch.id) == batch


def test_a_line_may_ask_only_the_models_of_its_key(keyed: TestClient, back: StoredBack) -> None:
    limits = Limits(models=frozenset({"mini-lm"}))
    mine = asker(keyed, back.keys.add("mine", SCOPE_GROUPS["inference"], limits)[1])
    data = line("may", {"model": "mini-lm", "prompt": "a"}) + line(
        "not", {"model": "mini-nlu", "prompt": "a"}
    )
    batch = ended(mine, submit(mine, data))
    assert list(content(mine, batch.output_file_id)) == ["may"]
    assert content(mine, batch.error_file_id)["not"]["response"]["status_code"] == 403


def test_what_lines_used_is_counted_for_their_key(keyed: TestClient, back: StoredBack) -> None:
    record, secret = back.keys.add("mine", SCOPE_GROUPS["inference"])
    ended(asker(keyed, secret), submit(asker(keyed, secret), completions(3)))
    assert [(key, model) for key, model, _ in back.usage.noted] == [(record.id, "mini-lm")] * 3
    assert all(usage.total_tokens for _, _, usage in back.usage.noted)


def test_lines_wait_for_the_token_rate_of_their_key(
    keyed: TestClient, back: StoredBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_runner, "LONGEST_WAIT", 0.005)
    record, secret = back.keys.add("mine", SCOPE_GROUPS["inference"], Limits(tokens_per_minute=1000))
    mine = asker(keyed, secret)
    allowances, moment = allowances_of(keyed), time.monotonic()
    caller, refused = Caller("", record.id, limits=record.limits), []
    take = allowances.take_spare

    def counted(*taken: Any) -> None:
        try:
            take(*taken)
        except RateLimited as error:
            refused.append(error)
            raise

    monkeypatch.setattr(allowances, "take_spare", counted)
    monkeypatch.setattr(allowances, "_clock", lambda: moment)
    allowances.take(caller, 501)
    batch = reaches(mine, submit(mine, completions(3)), lambda _: len(refused) > 3)
    assert (batch.status, back.usage.noted) == ("in_progress", [])
    moment += 60  # the bucket is full again
    batch = ended(mine, batch)
    assert batch.request_counts is not None
    assert (batch.status, batch.request_counts.completed) == ("completed", 3)
    (left,) = allowances.left(caller)
    assert left.remaining == 1000 - sum(usage.total_tokens for *_, usage in back.usage.noted)


def allowances_of(client: TestClient) -> Allowances:
    found: Allowances = client.app.state.appliance.service.tasks.admission.allowances  # type: ignore[attr-defined]
    return found


def test_a_batch_needs_the_right_to_have_models_compute(keyed: TestClient, back: StoredBack) -> None:
    scopes = SCOPE_GROUPS["inference"] - {"infer"}
    mine = asker(keyed, back.keys.add("mine", scopes)[1])
    with pytest.raises(openai.PermissionDeniedError, match="infer"):
        submit(mine, completions(1))


def test_no_request_waits_for_a_batch(settings: Settings, back: StoredBack, run: Run) -> None:
    """Batches have all slots; a request gets one at once, and the line that had it runs again later."""
    changed = {"num_slots": 2, "batch_slots": 2}
    app = create_app(settings.model_copy(update=changed), open_backend=back.open)
    gate, most = Gate(), 0
    scripted = back.cluster.reply

    async def reply(text: str, parameters: Any, operation: Any) -> Any:
        nonlocal most
        if text == "now":
            for _ in range(5):  # a line that gives way is cancelled when it has its next turn of the loop
                await asyncio.sleep(0)
            most = max(most, back.cluster.running)
        async for piece in (scripted if text == "now" else gate.reply)(text, parameters, operation):
            yield piece

    back.cluster.reply = reply

    async def post(path: str, body: Any) -> Any:
        call = Call.json(app, path, body)
        await call.done()
        assert call.status == 200, call.body
        return json.loads(call.body)

    async def upload(data: bytes) -> str:
        form = httpx.Request("POST", "http://x", data={"purpose": "batch"}, files={"file": ("x", data)})
        headers = {"content-type": form.headers["content-type"]}
        call = Call(app, "POST", "/v1/files", headers=headers, chunks=[form.read()])
        await call.done()
        return str(json.loads(call.body)["id"])

    async def state(batch_id: str) -> Any:
        call = Call(app, "GET", f"/v1/batches/{batch_id}", headers={}, chunks=[b""])
        await call.done()
        return json.loads(call.body)

    async def test() -> None:
        async with running(app):
            file_id = await upload(completions(4))
            asked = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
            batch = await post("/v1/batches", asked)
            await until(lambda: back.cluster.running == 2)
            for count in (1, 2):
                answers = await asyncio.gather(
                    *(post("/v1/generate", {"prompt": "now"}) for _ in range(count))
                )
                assert len(answers) == count
            assert most == 2  # requests never found a slot taken
            gate.open(100)
            while batch["status"] != "completed":
                batch = await state(batch["id"])
            assert batch["request_counts"] == {"total": 4, "completed": 4, "failed": 0}
            assert app.state.metrics.registry.get_sample_value("lmaas_batch_gave_way_total") >= 2

    run(test)


def test_a_restart_goes_on_where_the_last_run_was(settings: Settings) -> None:
    """A stop in the middle: what was answered is not asked again, and every line is in one file, once."""
    first, second = stored(), stored("another façade")
    gate = Gate()
    scripted = first.cluster.reply

    async def reply(text: str, parameters: Any, operation: Any) -> Any:
        held = text in {f"p{number}" for number in range(5, 20)}
        async for piece in (gate.reply if held else scripted)(text, parameters, operation):
            yield piece

    first.cluster.reply = reply
    with serving_client(create_app(settings, open_backend=first.open)) as client:
        mine = asker(client)
        batch = submit(mine, completions(20))
        reaches(mine, batch, lambda now: now.request_counts and now.request_counts.completed == 5)
    with serving_client(create_app(settings, open_backend=second.open)) as client:
        mine = asker(client)
        batch = ended(mine, batch)
        assert batch.request_counts is not None
        assert (batch.status, batch.request_counts.completed) == ("completed", 20)
        assert list(content(mine, batch.output_file_id)) == [f"c{number}" for number in range(20)]
    assert sorted(str(prompt) for prompt, _, _ in second.cluster.requests) == sorted(
        f"p{number}" for number in range(5, 20)
    )


def test_the_files_are_the_same_when_they_are_written_again(
    settings: Settings, back: StoredBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies, or the database fails, after the files are stored and before the batch says so."""
    advance, failed = BatchStore.advance, False

    async def advance_late(store: BatchStore, record: Any, state: BatchState, **changes: Any) -> Any:
        nonlocal failed
        if state is BatchState.COMPLETED and not failed:
            failed = True
            raise StoreUnavailable("the database is away")
        return await advance(store, record, state, **changes)

    monkeypatch.setattr(BatchStore, "advance", advance_late)
    with serving_client(create_app(settings, open_backend=back.open)) as client:
        mine = asker(client)
        batch = ended(mine, submit(mine, completions(3)))
        assert failed
        assert batch.status == "completed"
        assert [file.id for file in mine.files.list(purpose="batch_output")] == [batch.output_file_id]
        assert len(content(mine, batch.output_file_id)) == len(back.cluster.requests) == 3


def test_a_defect_ends_the_batch_and_says_so(
    mine: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any) -> Any:
        raise KeyError("secret detail")

    monkeypatch.setattr(BatchStore, "answered", broken)
    batch = ended(mine, submit(mine, completions(1)))
    assert batch.status == "failed"
    assert batch.errors is not None
    assert [error.code for error in batch.errors.data or ()] == ["server_error"]
    assert "secret detail" in caplog.text
    assert "secret" not in batch.to_json()
