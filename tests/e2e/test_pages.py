"""The commands of the tutorial and of the page on tasks, pasted, do what the pages say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.appliance import ROOT, Appliance
from tests.e2e.pages import paste, shown

LAST = "lmaas models rm reviews --force"


def without_spaces(printed: str) -> str:
    """JSON as a program may write it, too."""
    return printed.replace('": ', '":')


@pytest.mark.timeout(300)
def test_the_tutorial_ends_with_a_canary_that_lost_its_traffic(appliance: Appliance, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    commands, found, _ = shown("tutorial", appliance.url).partition(LAST)
    assert found

    def rolled_back() -> Any:
        # A busy machine may have had no room for copies of the page's own requests.
        appliance.post("/v1/classify", {"model": "reviews", "input": "A fine film."})
        deployments = appliance.http.get("/v1/deployments").json()["data"]
        canaries = [each for each in deployments if (each["model"], each["version"]) == ("reviews", 2)]
        return [event["kind"] for each in canaries for event in each["events"]]

    try:
        printed = without_spaces(paste(commands, tmp_path, appliance.url))
        assert '"label":"negative"' in printed  # of the boring film
        assert "reviews version 1 is ready and serves in int8" in printed
        assert "reviews version 2 is ready" in printed
        assert appliance.wait_for(rolled_back, "the canary loses its traffic") == ["rolled-back"]
    finally:
        paste(LAST, tmp_path, appliance.url)
    assert appliance.http.get("/v1/models/reviews").status_code == 404


def test_a_task_and_a_batch(appliance: Appliance, tmp_path: Path) -> None:
    printed = without_spaces(paste(shown("tasks", appliance.url), tmp_path, appliance.url))
    assert "event: done" in printed
    assert all(f'"custom_id":"row-{number}"' in printed for number in (1, 2, 3))
