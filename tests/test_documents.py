"""What the documents say is what the code says."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from api.environment import settings_markdown
from docs.site import linked_files, links
from train.options import options_markdown

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "bench").glob("reference/*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name / "README.md" for name in ("helm", "monitoring", "triton_repo")),
    ]
)


def test_the_settings_are_those_of_the_code() -> None:
    assert settings_markdown() in (ROOT / "docs" / "settings.md").read_text()


def test_the_options_of_training_are_those_of_the_code() -> None:
    assert options_markdown() in (ROOT / "docs" / "training.md").read_text()


@pytest.mark.parametrize(("document", "lines"), [("ARCHITECTURE.md", 100), ("README.md", 150)])
def test_a_document_stays_within_two_or_three_screens(document: str, lines: int) -> None:
    assert len((ROOT / document).read_text().splitlines()) <= lines


@cache
def anchors(document: Path) -> set[str]:
    """Of the headings, as GitHub and the site make them; a line of a code block is no heading."""
    text = re.sub(r"^ *```.*?^ *```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_somewhere(document: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = document.parent / name if name else document
    return target.exists() and (not anchor or anchor in anchors(target))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    assert [link for link in links(document) if not leads_somewhere(document, link)] == []


def test_a_link_to_a_missing_page_or_heading_is_found() -> None:
    readme = ROOT / "README.md"
    assert leads_somewhere(readme, "docs/operations.md#size-it")
    assert not leads_somewhere(readme, "docs/operations.md#size-them")
    assert not leads_somewhere(readme, "docs/operation.md")


def test_every_page_can_be_reached_from_the_readme() -> None:
    assert set((ROOT / "docs").glob("*.md")) - linked_files() == set()


def test_the_bundled_checkpoints_stay_small() -> None:
    size = sum(path.stat().st_size for path in (ROOT / "models").rglob("*") if path.is_file())
    assert 0 < size <= 28_000_000
