"""Models, versions, downloads, deployments, servers."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import cast, get_args

import httpx
import pytest
from starlette.testclient import TestClient

from api.config import Settings
from api.errors import StoreUnavailable
from api.front.download import byte_range
from api.middle.schemas.base import Answer, VariantName
from client.errors import RefusedError
from client.remote_file import RemoteFile
from runtime.contract import Kind, Variant
from tests.api.fakes import ARCHIVE, FakeArchive, FakeBack, manifest

ARCHIVE_PATH = "/v1/models/mini-lm/versions/1/archive"


def test_show_change_and_delete_a_model(client: TestClient, back: FakeBack) -> None:
    change = {"description": "Stories", "aliases": {"stable": 1}}
    changed = client.patch("/v1/models/mini-lm", json=change)
    assert changed.status_code == 200
    shown = client.get("/v1/models/mini-lm").json()
    assert shown == changed.json()
    assert (shown["description"], shown["aliases"]) == ("Stories", {"latest": 1, "stable": 1})
    assert client.patch("/v1/models/mini-lm", json={"aliases": {"stable": None}}).json()["aliases"] == {
        "latest": 1
    }
    assert client.delete("/v1/models/mini-lm?force=true").status_code == 204
    assert "d-mini-lm" not in back.cluster.live
    assert client.get("/v1/models/mini-lm").status_code == 404


def test_the_client_reads_an_archive_in_parts(client: TestClient) -> None:
    http = cast("httpx.Client", client)  # it has the same methods
    with io.BufferedReader(RemoteFile(http, ARCHIVE_PATH), buffer_size=7) as remote:
        assert remote.read() == ARCHIVE
        remote.seek(-4, io.SEEK_END)
        assert remote.read(3) == ARCHIVE[-4:-1]
        remote.seek(2)
        assert remote.read(5) == ARCHIVE[2:7]
    with pytest.raises(RefusedError, match="404"):
        RemoteFile(http, "/v1/models/none/versions/1/archive")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({}, "description"),
        ({"aliases": {"x": 7}}, "aliases.x"),
        ({"name": "y"}, "name"),
        ({"aliases": 1}, "aliases"),
    ],
)
def test_changes_that_are_none(client: TestClient, change: object, field: str) -> None:
    answer = client.patch("/v1/models/mini-lm", json=change)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


def test_a_version_shows_its_quality_card(client: TestClient) -> None:
    for name in ("1", "latest"):
        shown = client.get(f"/v1/models/mini-lm/versions/{name}").json()
        assert (shown["version"], shown["state"], shown["kind"]) == (1, "ready", "lm")
        digest = manifest("mini-lm", Kind.LM).digest(Variant.INT8)
        shared = {"artifact": digest, "size": 1000, "load_seconds": 0.1}
        assert shown["variants"] == {
            "fp32": {**shared, "quality": None},
            "int8": {**shared, "quality": {"mean_kl": 0.01}},
        }
    assert client.get("/v1/models/mini-lm/versions/9").status_code == 404
    assert client.get("/v1/models/mini-lm/versions/nope").status_code == 404


def test_the_memory_of_a_version(client: TestClient) -> None:
    shown = client.get("/v1/models/mini-lm/versions/latest/memory").json()
    assert shown == {"needed": {"int8": 300 * 2**20}, "free": 2**33}
    assert client.get("/v1/models/mini-lm/versions/9/memory").status_code == 404


@pytest.mark.parametrize("path", ["/v1/models/mini-nlu", "/v1/models/mini-nlu/versions/latest"])
def test_what_is_deployed_is_deleted_by_force_alone(client: TestClient, back: FakeBack, path: str) -> None:
    refused = client.delete(path)
    assert (refused.status_code, refused.json()["type"]) == (409, "/docs#conflict")
    assert "d-mini-nlu (version 1)" in refused.json()["detail"]
    assert client.delete(f"{path}?force=perhaps").status_code == 422
    assert "d-mini-nlu" in back.cluster.live
    assert client.delete("/v1/deployments/d-mini-nlu").status_code == 204
    assert client.delete(path).status_code == 204


def test_deleting_a_version_by_force_undeploys_it(client: TestClient, back: FakeBack) -> None:
    assert client.delete("/v1/models/mini-nlu/versions/latest?force=true").status_code == 204
    assert "d-mini-nlu" not in back.cluster.live
    assert client.get("/v1/models/mini-nlu/versions/1").status_code == 404


def test_download(client: TestClient) -> None:
    whole = client.get(ARCHIVE_PATH)
    assert whole.content == ARCHIVE
    assert whole.headers["content-length"] == str(len(ARCHIVE))
    assert whole.headers["content-disposition"] == 'attachment; filename="mini-lm.tar"'
    head = client.head(ARCHIVE_PATH)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", whole.headers["etag"])
    for given in (whole.headers["etag"], f'"other", W/{whole.headers["etag"]}', "*"):
        unchanged = client.get(ARCHIVE_PATH, headers={"if-none-match": given})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert client.get(ARCHIVE_PATH, headers={"if-none-match": '"other"'}).status_code == 200


def test_conditions_of_a_download(client: TestClient) -> None:
    """RFC 9110: If-Match comes first and compares strongly, as If-Range does; If-None-Match beats Range."""
    etag = client.head(ARCHIVE_PATH).headers["etag"]

    def answer(**headers: str) -> tuple[int, int]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        found = client.get(ARCHIVE_PATH, headers=given)
        return found.status_code, len(found.content)

    assert answer(if_match=f'"old", {etag}', range="bytes=0-9") == (206, 10)
    assert answer(if_match="*") == (200, len(ARCHIVE))
    for wrong in ('"old"', f"W/{etag}"):
        refused = client.get(ARCHIVE_PATH, headers={"if-match": wrong, "if-none-match": etag})
        assert (refused.status_code, refused.json()["type"]) == (412, "/docs#changed-meanwhile")
        assert refused.headers["etag"] == etag
    assert answer(if_none_match=etag, range="bytes=0-9") == (304, 0)
    assert answer(range="bytes=0-9", if_range=f"W/{etag}") == (200, len(ARCHIVE))
    assert answer(range="bytes=0-9", if_range="Sun, 29 Nov 2026 12:00:00 GMT") == (200, len(ARCHIVE))
    assert answer(range="bytes=0-9,20-29") == (200, len(ARCHIVE))
    assert answer(range="Bytes=0-9") == (206, 10)


def test_a_download_is_never_compressed_on_the_way(client: TestClient) -> None:
    """Ranges and the Content-Length count the bytes of the archive."""
    for given in ({}, {"range": f"bytes=1-{len(ARCHIVE) - 1}"}):
        answer = client.get(ARCHIVE_PATH, headers={"accept-encoding": "gzip", **given})
        assert answer.headers["content-type"] == "application/x-tar"
        assert "content-encoding" not in answer.headers
        assert int(answer.headers["content-length"]) == len(answer.content)


def test_download_of_a_range(client: TestClient) -> None:
    size = len(ARCHIVE)
    part = client.get(ARCHIVE_PATH, headers={"range": "bytes=10-2009"})
    assert (part.status_code, part.content) == (206, ARCHIVE[10:2010])
    assert part.headers["content-range"] == f"bytes 10-2009/{size}"
    assert client.get(ARCHIVE_PATH, headers={"range": "bytes=-5"}).content == ARCHIVE[-5:]
    outside = client.get(ARCHIVE_PATH, headers={"range": f"bytes={size}-"})
    assert (outside.status_code, outside.headers["content-range"]) == (416, f"bytes */{size}")
    etag = client.head(ARCHIVE_PATH).headers["etag"]
    rest = client.get(ARCHIVE_PATH, headers={"range": "bytes=2010-", "if-range": etag})
    assert (rest.status_code, ARCHIVE[:2010] + rest.content) == (206, ARCHIVE)
    stale = {"range": "bytes=0-9", "if-range": '"old"'}
    assert client.get(ARCHIVE_PATH, headers=stale).content == ARCHIVE


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-", (0, 100)),
        ("bytes=0-0", (0, 1)),
        ("bytes=90-500", (90, 100)),
        ("bytes=-200", (0, 100)),
        ("bytes=-0", (100, 100)),
        ("bytes=200-300", (200, 100)),
        ("bytes=5-1", None),
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("lines=1-2", None),
    ],
)
def test_byte_ranges(header: str, span: tuple[int, int] | None) -> None:
    assert byte_range(header, 100) == span


def test_the_life_of_a_deployment(client: TestClient) -> None:
    assert client.delete("/v1/deployments/d-mini-lm").status_code == 204
    made = client.post("/v1/deployments", json={"model": "mini-lm", "precision": "fp32", "replicas": 2})
    assert made.status_code == 201
    record = made.json()
    assert made.headers["location"] == f"/v1/deployments/{record['id']}"
    assert (record["precision"], record["precision_asked"], record["state"]) == ("fp32", "fp32", "ready")
    assert (record["replicas"], record["servers"]) == (2, {"triton-0": "ready", "triton-1": "ready"})
    again = client.post("/v1/deployments", json={"model": "mini-lm"})
    assert (again.status_code, again.json()["type"]) == (409, "/docs#conflict")
    path = f"/v1/deployments/{record['id']}"
    assert client.patch(path, json={"traffic_weight": 20}).json()["traffic_weight"] == 20
    assert client.patch(path, json={}).status_code == 422
    assert client.get(path).json()["traffic_weight"] == 20
    replaced = client.patch(path, json={"precision": "int8", "traffic_weight": 30}).json()
    assert (replaced["id"], replaced["precision"], replaced["traffic_weight"]) == (record["id"], "int8", 30)
    assert replaced["rollout"] == {"phase": "draining", "version": 1, "precision": "fp32"}
    watched = client.patch(path, json={"canary": {"shadow": 0.5, "max_disagreement": 0.1}}).json()["canary"]
    assert (watched["shadow"], watched["max_disagreement"], watched["min_requests"]) == (0.5, 0.1, 50)
    assert (watched["requests"], watched["latency_ratio"]) == (0, None)
    assert client.patch(path, json={"canary": None}).json()["canary"] is None
    refused = client.patch(path, json={"canary": {"shadow": 1.5}})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "canary.shadow")
    for wrong in ({"version": 0}, {"precision": "int3"}):
        assert client.patch(path, json=wrong).status_code == 422
    assert record["id"] in [item["id"] for item in client.get("/v1/deployments").json()["data"]]
    assert client.delete(path).status_code == 204
    assert client.delete(path).status_code == 404
    assert client.post("/v1/deployments", json={"model": "nobody"}).status_code == 404


def test_servers(client: TestClient) -> None:
    (server,) = client.get("/v1/servers").json()["data"]
    assert (server["name"], server["state"], server["pid"]) == ("triton-0", "ready", 42)
    assert "mini-lm/1" in server["models"]
    drained = client.patch("/v1/servers/triton-0", json={"draining": True})
    assert (drained.status_code, drained.json()["state"]) == (200, "draining")
    assert client.patch("/v1/servers/triton-1", json={"draining": True}).status_code == 404
    assert client.patch("/v1/servers/triton-0", json={}).status_code == 422


def test_every_precision_can_be_named() -> None:
    variants = tuple(variant.value for variant in Variant)
    assert get_args(VariantName) == variants
    assert Answer(model="m", version=1, precision="int4").precision == "int4"
    assert get_args(Settings.model_fields["precision"].annotation) == ("auto", *variants)


def test_a_deployment_can_be_scaled_by_its_load(client: TestClient) -> None:
    path = "/v1/deployments/d-mini-lm"
    assert client.get(path).json()["autoscale"] is None
    answer = client.patch(path, json={"autoscale": {"max": 4}})
    assert answer.json()["autoscale"] == {"min": 1, "max": 4, "target_utilisation": 0.7}
    made = client.post(
        "/v1/deployments", json={"model": "mini-lm", "version": 1, "autoscale": {"min": 0, "max": 2}}
    )
    assert made.status_code == 409  # deployed already: but the bounds are accepted
    for wrong, field in (
        ({"min": 3, "max": 2}, "autoscale.min"),
        ({"max": 65}, "autoscale.max"),
        ({"max": 2, "target_utilisation": 1.5}, "autoscale.target_utilisation"),
    ):
        refused = client.patch(path, json={"autoscale": wrong})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)


def test_measured_capacity_is_kept_in_the_deployments_record(client: TestClient) -> None:
    path = "/v1/deployments/d-mini-lm"
    assert client.get(path).json()["capacity"] is None
    measured = {
        "requests_per_second": 56.5,
        "tokens_per_second": 2462.0,
        "p95_seconds": 0.41,
        "target_seconds": 0.5,
        "measured_at": "2026-11-24T19:00:00Z",
        "command": "lmaas perf capacity mini-lm",
    }
    for known in (measured | {"replicas": None}, measured | {"replicas": 2}):
        assert client.patch(path, json={"capacity": known}).json()["capacity"] == known
        assert client.get(path).json()["capacity"] == known
    wrong = client.patch(path, json={"capacity": measured | {"requests_per_second": -1}})
    assert wrong.status_code == 422
    assert wrong.json()["errors"][0]["field"] == "capacity.requests_per_second"


def test_a_download_that_cannot_begin_is_refused_whole(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object) -> AsyncIterator[bytes]:
        if ARCHIVE:
            raise StoreUnavailable("the blob store fails (no route to host): s3://bucket")
        yield b""

    monkeypatch.setattr(FakeArchive, "read", failing)
    answer = client.get(ARCHIVE_PATH)
    assert (answer.status_code, answer.json()["type"]) == (503, "/docs#store-unavailable")
    assert "retry-after" in answer.headers


def test_the_history_of_a_model(client: TestClient, back: FakeBack) -> None:
    path = "/v1/models/mini-lm/history"
    assert client.get(path).json() == {"object": "list", "data": [], "has_more": False}
    client.patch("/v1/models/mini-lm", json={"aliases": {"stable": 1}})
    client.patch("/v1/models/mini-lm", json={"aliases": {"stable": None}})
    client.delete("/v1/deployments/d-mini-lm")
    canary = {"max_error_rate": 0.5}
    client.post("/v1/deployments", json={"model": "mini-lm", "precision": "fp32", "canary": canary})
    client.post("/v1/deployments", json={"model": "mini-lm"})  # refused: it is deployed
    client.patch("/v1/deployments/d-mini-lm-1", json={"canary": None, "replicas": 2})
    client.patch("/v1/deployments/d-mini-lm-1", json={"canary": None})  # there is none any more
    assert client.portal is not None
    record = back.cluster.live["d-mini-lm-1"]
    for change in (("autoscaler", "scale", record, "3"), ("rollback", "rollback", record, "fp32")):
        client.portal.call(back.cluster.observers[0], *change)
    client.delete("/v1/models/mini-lm/versions/1?force=true")
    client.delete("/v1/models/mini-nli")  # refused; and another model
    shown = client.get(path).json()["data"]
    fields = ("action", "version", "precision", "alias")
    assert {entry["action"]: entry["actor"] for entry in shown if entry["actor"]} == {
        "scale": "autoscaler",
        "rollback": "rollback",
    }
    assert [entry["replicas"] for entry in shown if entry["action"] == "scale"] == [3, 2]
    assert [tuple(entry[name] for name in fields) for entry in shown] == [
        ("delete", 1, None, None),
        ("undeploy", 1, "fp32", None),
        ("rollback", 1, "fp32", None),
        ("scale", 1, None, None),
        ("end-canary", 1, "fp32", None),
        ("scale", 1, None, None),
        ("deploy", 1, "fp32", None),
        ("undeploy", 1, "int8", None),
        ("alias", None, None, "stable"),
        ("alias", 1, None, "stable"),
    ]
    assert [entry["at"] for entry in shown] == sorted((entry["at"] for entry in shown), reverse=True)
    page = client.get(path, params={"limit": 2}).json()
    assert (page["data"], page["has_more"]) == (shown[:2], True)
    client.delete("/v1/models/mini-lm")
    assert client.get(path).json()["data"][0]["version"] is None  # it outlives the model
    assert client.get("/v1/models/absent/history").status_code == 404
