"""Models, versions, downloads, deployments, servers."""

from __future__ import annotations

from typing import get_args

import pytest
from starlette.testclient import TestClient

from api.config import Settings
from api.front.archive_response import byte_range
from api.middle.schemas.base import Answer, VariantName
from runtime.contract import Variant
from tests.api.fakes import ARCHIVE, FakeBack

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
    assert client.delete("/v1/models/mini-lm").status_code == 204
    assert "d-mini-lm" not in back.cluster.live
    assert client.get("/v1/models/mini-lm").status_code == 404


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
        assert shown["variants"] == {
            "fp32": {"size": 1000, "load_seconds": 0.1, "quality": None},
            "int8": {"size": 1000, "load_seconds": 0.1, "quality": {"mean_kl": 0.01}},
        }
    assert client.get("/v1/models/mini-lm/versions/9").status_code == 404
    assert client.get("/v1/models/mini-lm/versions/nope").status_code == 404


def test_deleting_a_version_undeploys_it(client: TestClient, back: FakeBack) -> None:
    assert client.delete("/v1/models/mini-nlu/versions/latest").status_code == 204
    assert "d-mini-nlu" not in back.cluster.live
    assert client.get("/v1/models/mini-nlu/versions/1").status_code == 404


def test_download(client: TestClient) -> None:
    whole = client.get(ARCHIVE_PATH)
    assert whole.content == ARCHIVE
    assert whole.headers["content-length"] == str(len(ARCHIVE))
    assert whole.headers["content-disposition"] == 'attachment; filename="mini-lm.tar.gz"'
    head = client.head(ARCHIVE_PATH)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", whole.headers["etag"])
    for given in (whole.headers["etag"], f'"other", W/{whole.headers["etag"]}', "*"):
        unchanged = client.get(ARCHIVE_PATH, headers={"if-none-match": given})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert client.get(ARCHIVE_PATH, headers={"if-none-match": '"other"'}).status_code == 200


def test_download_of_a_range(client: TestClient) -> None:
    size = len(ARCHIVE)
    part = client.get(ARCHIVE_PATH, headers={"range": "bytes=10-2009"})
    assert (part.status_code, part.content) == (206, ARCHIVE[10:2010])
    assert part.headers["content-range"] == f"bytes 10-2009/{size}"
    assert client.get(ARCHIVE_PATH, headers={"range": "bytes=-5"}).content == ARCHIVE[-5:]
    outside = client.get(ARCHIVE_PATH, headers={"range": f"bytes={size}-"})
    assert (outside.status_code, outside.headers["content-range"]) == (416, f"bytes */{size}")
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
    made = client.post("/v1/deployments", json={"model": "mini-lm", "precision": "fp32"})
    assert made.status_code == 201
    record = made.json()
    assert made.headers["location"] == f"/v1/deployments/{record['id']}"
    assert (record["precision"], record["precision_asked"], record["state"]) == ("fp32", "fp32", "ready")
    again = client.post("/v1/deployments", json={"model": "mini-lm"})
    assert (again.status_code, again.json()["type"]) == (409, "/docs#conflict")
    path = f"/v1/deployments/{record['id']}"
    assert client.patch(path, json={"traffic_weight": 20}).json()["traffic_weight"] == 20
    assert client.patch(path, json={}).status_code == 422
    assert client.get(path).json()["traffic_weight"] == 20
    assert record["id"] in [item["id"] for item in client.get("/v1/deployments").json()["data"]]
    assert client.delete(path).status_code == 204
    assert client.delete(path).status_code == 404
    assert client.post("/v1/deployments", json={"model": "nobody"}).status_code == 404


def test_servers(client: TestClient) -> None:
    (server,) = client.get("/v1/servers").json()["data"]
    assert (server["name"], server["state"], server["pid"]) == ("triton-0", "ready", 42)
    assert "mini-lm/1" in server["models"]


def test_every_precision_can_be_named() -> None:
    variants = tuple(variant.value for variant in Variant)
    assert get_args(VariantName) == variants
    assert Answer(model="m", version=1, precision="int4").precision == "int4"
    assert get_args(Settings.model_fields["precision"].annotation) == ("auto", *variants)


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
    assert client.patch(path, json={"capacity": measured}).json()["capacity"] == measured
    assert client.get(path).json()["capacity"] == measured
    wrong = client.patch(path, json={"capacity": measured | {"requests_per_second": -1}})
    assert wrong.status_code == 422
    assert wrong.json()["errors"][0]["field"] == "capacity.requests_per_second"
