"""Messages of the real API, as commands show them: they name options and commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from api.app import create_app
from api.back.store.records import Autoscale
from api.config import Settings
from api.errors import Conflict
from cli import lifecycle
from client.http import Client
from lmaas import app
from runtime.contract import Variant
from tests.api.conftest import serving_client
from tests.api.fakes import FakeBack


@pytest.fixture
def back() -> FakeBack:
    return FakeBack.make()


@pytest.fixture(params=["open", "keys"])
def server(
    request: pytest.FixtureRequest, tmp_path: Any, back: FakeBack, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    """The commands of a model's life talk to it, without a key."""
    settings = Settings(home=tmp_path, models=tmp_path / "none", access=request.param, drain_seconds=1)
    with serving_client(create_app(settings, open_backend=back.open)) as http:

        @contextmanager
        def connect(url: str) -> Iterator[Client]:
            yield Client(http=http)  # type: ignore[arg-type]

        monkeypatch.setattr(lifecycle, "Client", connect)
        yield http


def refused(*arguments: str) -> str:
    ended = CliRunner().invoke(app, [*arguments])
    assert ended.exit_code == 1, ended.output
    return ended.output


@pytest.mark.parametrize("server", ["open"], indirect=True)
def test_force_is_an_option(server: TestClient, back: FakeBack, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused("models", "rm", "mini-lm")
    assert "or add --force to do both" in message
    assert "?" not in message

    async def over_budget(*_: Any, **options: Any) -> Any:
        raise Conflict(
            'int8 is over the quality budget. Deploy fp32, or this all the same with "force": true'
        )

    monkeypatch.setattr(back.cluster, "deploy", over_budget)
    assert "this all the same with --force" in refused("deploy", "mini-lm")


@pytest.mark.parametrize("server", ["open"], indirect=True)
def test_apply_deploys_a_model_or_changes_its_deployment(server: TestClient, back: FakeBack) -> None:
    """As a Job of the chart does, which may run twice, and whose model may have come with the release."""
    del back.cluster.live["d-mini-nlu"]
    for model, known in (("mini-nlu", "d-mini-nlu-1"), ("mini-lm", "d-mini-lm")):
        command = ["deploy", model, "--apply", "--precision", "fp32", "--replicas", "2"]
        for _ in range(2):
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0, done.output
        (record,) = (record for record in back.cluster.live.values() if record.model == model)
        assert (record.id, record.variant, record.replicas) == (known, Variant.FP32, 2)
    bounds = CliRunner().invoke(app, ["deploy", "mini-lm", "--apply", "--max-replicas", "4"])
    assert bounds.exit_code == 0
    assert back.cluster.live["d-mini-lm"].autoscale == Autoscale(1, 4)


@pytest.mark.parametrize("server", ["keys"], indirect=True)
def test_a_key_is_given_by_a_variable(server: TestClient) -> None:
    message = refused("models", "ls")
    assert "an API key is needed: set LMAAS_API_KEY" in message
    assert "Bearer" not in message
