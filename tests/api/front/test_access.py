"""Usage and the audit log over HTTP: what is counted and recorded, and who sees it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.caller import SCOPE_GROUPS
from api.config import Settings
from api.errors import StoreUnavailable
from api.front.routes import ENDPOINTS
from tests.api.conftest import serving_client
from tests.api.fakes import FakeBack


@pytest.fixture
def keyed(settings: Settings, back: FakeBack) -> Iterator[TestClient]:
    changed = settings.model_copy(update={"access": "keys"})
    with serving_client(create_app(changed, open_backend=back.open)) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_usage_is_counted_and_shown_to_its_own_key(keyed: TestClient, back: FakeBack) -> None:
    ann, ann_key = back.keys.add("ann", SCOPE_GROUPS["inference"])
    bob, bob_key = back.keys.add("bob", SCOPE_GROUPS["inference"])
    _, root = back.keys.add("root")
    answer = keyed.post("/v1/generate", json={"prompt": "a b"}, headers=bearer(ann_key))
    usage = answer.json()["usage"]
    keyed.post("/v1/generate", json={"prompt": "a", "stream": True}, headers=bearer(ann_key))
    keyed.post("/v1/classify", json={"input": "a"}, headers=bearer(bob_key))
    keyed.post("/v1/generate", json={"prompt": "a", "model": "no-such"}, headers=bearer(bob_key))
    keyed.post("/v1/generate", json={"prompt": "a", "n": 0}, headers=bearer(bob_key))
    assert [noted[:2] for noted in back.usage.noted] == [
        (ann.id, "mini-lm"),
        (ann.id, "mini-lm"),
        (bob.id, "mini-sentiment"),
    ]
    assert back.usage.noted[1][2].completion_tokens > 0

    def rows(key: str, query: str = "") -> list[str]:
        answer = keyed.get(f"/v1/usage{query}", headers=bearer(key))
        return [row["key"] for row in answer.json()["data"]] if answer.status_code == 200 else ["refused"]

    assert rows(ann_key) == [ann.id, ann.id]
    assert rows(ann_key, f"?key={ann.id}&model=mini-nlu") == []
    assert rows(ann_key, f"?key={bob.id}") == ["refused"]
    assert len(rows(root)) == 3
    assert rows(root, f"?key={bob.id}") == [bob.id]
    (first, _) = keyed.get("/v1/usage?limit=2", headers=bearer(root)).json()["data"]
    assert (first["prompt_tokens"], first["completion_tokens"]) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )


def test_without_keys_usage_is_everybody_s(client: TestClient, back: FakeBack) -> None:
    client.post("/v1/generate", json={"prompt": "a"}, headers=bearer("invented"))
    assert [noted[:2] for noted in back.usage.noted] == [("", "mini-lm")]
    (row,) = client.get("/v1/usage").json()["data"]
    assert row["key"] is None


def test_every_change_is_recorded(keyed: TestClient, back: FakeBack) -> None:
    record, root = back.keys.add("root")
    headers = {**bearer(root), "X-Request-Id": "r-1"}
    keyed.patch("/v1/models/mini-lm", json={"description": "new"}, headers=headers)
    keyed.post("/v1/deployments", json={"model": "no-such"}, headers=headers)
    keyed.delete("/v1/models/mini-nli?force=true", headers=headers)
    for path in ("/v1/models", "/v1/deployments", "/v1/audit"):
        keyed.get(path, headers=headers)
    keyed.post("/v1/generate", json={"prompt": "a"}, headers=headers)
    entries = keyed.get("/v1/audit", headers=headers).json()["data"]
    assert [(item["action"], item["target"], item["outcome"]) for item in entries] == [
        ("DELETE", "/v1/models/mini-nli", "204"),
        ("delete", "models/mini-nli/versions/*", "done"),
        ("undeploy", "models/mini-nli/versions/1", "int8"),
        ("POST", "/v1/deployments", "404"),
        ("PATCH", "/v1/models/mini-lm", "200"),
    ]
    assert {(item["actor"], item["address"], item["request_id"]) for item in entries} == {
        (record.id, "testclient", "r-1")
    }
    page = keyed.get("/v1/audit?limit=1", headers=headers).json()
    assert (len(page["data"]), page["has_more"]) == (1, True)


def test_what_callers_cancel_and_delete_is_recorded(keyed: TestClient, back: FakeBack) -> None:
    record, key = back.keys.add("ann", SCOPE_GROUPS["inference"])
    headers = bearer(key)
    task = {"type": "generate", "parameters": {"prompt": "a"}}
    made = keyed.post("/v1/tasks", json=task, headers=headers).json()
    assert keyed.delete(f"/v1/tasks/{made['id']}", headers=headers).status_code == 200
    assert keyed.delete("/v1/tasks/none", headers=headers).status_code == 404  # nothing was changed
    assert [(item.actor, item.action, item.target, item.outcome) for item in back.audit.records] == [
        (record.id, "DELETE", f"/v1/tasks/{made['id']}", "200")
    ]
    audited = {f"{item.method} {item.path}" for item in ENDPOINTS if item.ends}
    assert audited == {"DELETE /v1/tasks/{id}", "DELETE /v1/files/{id}", "POST /v1/batches/{id}/cancel"}


def test_callers_without_the_scope_neither_fill_nor_read_the_log(keyed: TestClient, back: FakeBack) -> None:
    _, key = back.keys.add("ann", SCOPE_GROUPS["inference"])
    for headers in ({}, bearer(key)):
        assert keyed.delete("/v1/models/mini-lm", headers=headers).status_code in (401, 403)
        assert keyed.get("/v1/audit", headers=headers).status_code in (401, 403)
    assert back.audit.records == []


def test_a_change_stands_where_the_log_cannot_be_written(
    client: TestClient, back: FakeBack, caplog: pytest.LogCaptureFixture
) -> None:
    back.audit.failure = StoreUnavailable("the disk is gone")
    assert client.delete("/v1/models/mini-nli?force=true").status_code == 204
    assert "/v1/models/mini-nli" in caplog.text
