"""What the documents say is what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.environment import settings_markdown
from train.options import options_markdown

ROOT = Path(__file__).resolve().parents[1]
LINKING = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    *(f"docs/{name}.md" for name in ("operations", "containers", "training", "evaluation", "compression")),
)


def test_the_readme_s_settings_are_those_of_the_code() -> None:
    assert settings_markdown() in (ROOT / "README.md").read_text()


def test_the_options_of_training_are_those_of_the_code() -> None:
    assert options_markdown() in (ROOT / "docs" / "training.md").read_text()


def test_architecture_stays_within_two_screens() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 100


@pytest.mark.parametrize("document", LINKING)
def test_links_lead_somewhere(document: str) -> None:
    file = ROOT / document
    targets = [part.split(")")[0] for part in file.read_text().split("](")[1:]]
    missing = [
        target
        for target in targets
        if not target.startswith(("http", "#")) and not (file.parent / target).exists()
    ]
    assert not missing


def test_the_bundled_checkpoints_stay_small() -> None:
    size = sum(path.stat().st_size for path in (ROOT / "models").rglob("*") if path.is_file())
    assert 0 < size <= 28_000_000
