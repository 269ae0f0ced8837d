"""Keys on a real appliance: made while it runs, used by an `openai` client, revoked, and counted for good."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.appliance import Appliance, home_with, running
from tests.e2e.pages import lmaas

PROMPT = "Once upon a time there was a"


@pytest.fixture(scope="module")
def home(converted_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return home_with(converted_home, tmp_path_factory.mktemp("keys") / "home of its own", "mini-lm")


def new_key(home: Path, *arguments: str) -> dict[str, Any]:
    key: dict[str, Any] = json.loads(lmaas("keys", "create", *arguments, "--json", home=str(home)))
    return key


def bearer(key: Mapping[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {key['key']}"}


def status(appliance: Appliance, key: Mapping[str, Any] | None = None, path: str = "/v1/models") -> int:
    return appliance.http.get(path, headers=bearer(key) if key else {}).status_code


def test_a_key_s_life(home: Path) -> None:
    with running(home) as appliance:
        assert status(appliance) == 200
        admin = new_key(home, "root", "--scopes", "admin")
        appliance.wait_for(lambda: status(appliance) == 401, "the first key closes the API")
        ann = new_key(home, "ann", "--requests-per-minute", "3")
        assert status(appliance, ann) == 200
        assert status(appliance, ann, "/v1/servers") == 403
        assert status(appliance, admin, "/v1/servers") == 200
        with openai.OpenAI(base_url=f"{appliance.url}/v1", api_key=ann["key"], max_retries=0) as client:
            answer = client.completions.create(model="mini-lm", prompt=PROMPT, max_tokens=5)
            assert answer.usage is not None
            used = answer.usage.total_tokens
            client.embeddings.create(model="mini-lm", input="a")
            client.completions.create(model="mini-lm", prompt=PROMPT, max_tokens=1)
            with pytest.raises(openai.RateLimitError) as limited:
                client.completions.create(model="mini-lm", prompt=PROMPT)
            assert limited.value.code == "rate_limit_exceeded"
            with pytest.raises(openai.AuthenticationError):
                openai.OpenAI(base_url=client.base_url, api_key="sk-none", max_retries=0).models.list()
        said = lmaas("generate", PROMPT, url=appliance.url, api_key=admin["key"])
        assert said.startswith(PROMPT)
        assert "API key" in lmaas("generate", PROMPT, url=appliance.url, status=1)
        lmaas("keys", "revoke", ann["id"], home=str(home))
        appliance.wait_for(lambda: status(appliance, ann) == 401, "a revoked key is refused")
    with running(home, key=admin["key"]) as again:  # what was counted has outlived the process
        rows = again.http.get("/v1/usage", params={"key": ann["id"]}).json()["data"]
        (row,) = rows
        assert (row["name"], row["model"], row["requests"]) == ("ann", "mini-lm", 3)
        assert row["prompt_tokens"] + row["completion_tokens"] > used
        audit = again.http.get("/v1/audit").json()["data"]
        of_keys = [item["action"] for item in audit if item["action"].startswith("keys ")]
        assert of_keys == ["keys revoke", "keys create", "keys create"]
        assert again.http.get("/v1/usage", headers={"Authorization": ""}).status_code == 401
