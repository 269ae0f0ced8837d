"""The site of the documents: each link leads to a page and a heading, and nothing comes from elsewhere."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from typer.main import get_command

import lmaas
from api.front.routes import ENDPOINTS
from docs.site import CONFIG, ROOT, build
from runtime.manifest import Manifest
from tests.monitoring.promql import expressions, parsed, selectors

CODE = ("code", "pre", "script", "style")
REFERENCE = ("api", "cli", "metrics", "manifest")


class Page(HTMLParser):
    """What a page links to, what a browser loads for it, and the ids in it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.prose: list[str] = []  # text outside of code
        self._code = 0
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._code += tag in CODE
        found = {name: value for name, value in attrs if value}
        if "id" in found:
            self.ids.add(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif "src" in found or (tag == "link" and "href" in found):
            self.loaded.append(found.get("src") or found["href"])

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in CODE

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.prose += data.splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("documents")
    build(where)
    return where


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[Path, Page]:
    """By the file in the site; the page for a wrong address has no place of its own."""
    return {file: Page(file) for file in (folder / "site").rglob("index.html")}


@pytest.fixture(scope="module")
def reference(folder: Path) -> dict[str, str]:
    return {name: (folder / "pages" / "docs" / "reference" / f"{name}.md").read_text() for name in REFERENCE}


def test_every_link_leads_to_a_page_and_a_heading(pages: dict[Path, Page]) -> None:
    broken = []
    for file, page in pages.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto"):
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            missing = parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids
            if not target.is_file() or missing:
                broken.append((str(file), link))
    assert broken == []
    assert sum(len(page.links) for page in pages.values()) > 1000


def test_a_browser_loads_nothing_from_elsewhere(pages: dict[Path, Page]) -> None:
    loaded = [address for page in pages.values() for address in page.loaded]
    assert len(loaded) > 100
    assert [address for address in loaded if urlsplit(address).netloc] == []


def test_lists_tables_and_blocks_are_no_prose(pages: dict[Path, Page]) -> None:
    """As they become where the generator reads Markdown otherwise than GitHub."""
    marks = ("- ", "* ", "| ", "```")
    lines = [(str(file), line) for file, page in pages.items() for line in page.prose]
    assert len(lines) > 5000
    assert [(file, line) for file, line in lines if line.lstrip().startswith(marks)] == []


def test_every_page_is_in_the_navigation() -> None:
    listed = {path for group in yaml.safe_load(CONFIG.read_text())["nav"] for path in leaves(group)}
    written = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")}
    assert written - listed == set()


def leaves(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    nested = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ()
    return [path for each in nested for path in leaves(each)]


def test_a_broken_link_ends_the_build(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "README.md").write_text("# Begin\n\n[broken](README.md#nowhere)\n")
    settings = {key: value for key, value in yaml.safe_load(CONFIG.read_text()).items() if key != "nav"}
    (tmp_path / CONFIG.name).write_text(yaml.safe_dump(settings))
    generator = [sys.executable, "-m", "zensical", "build", "--strict"]
    ended = subprocess.run(
        [*generator, "--config-file", str(tmp_path / CONFIG.name)], capture_output=True, text=True
    )
    assert (ended.returncode, "does not exist" in ended.stdout + ended.stderr) == (1, True)


def test_the_reference_has_every_route(reference: dict[str, str]) -> None:
    headings = set(reference["api"].splitlines())
    assert {f"### {each.method} {each.path}" for each in ENDPOINTS} - headings == set()


def test_the_reference_has_every_command(reference: dict[str, str]) -> None:
    commands = get_command(lmaas.app).commands  # type: ignore[attr-defined]
    assert {f"## `lmaas {name}`" for name in commands} - set(reference["cli"].splitlines()) == set()


def test_the_reference_has_every_metric_of_the_dashboard(reference: dict[str, str]) -> None:
    seen = {name for text in expressions().values() for name, _ in selectors(parsed(text))}
    ours = {name for name in seen if name.startswith("lmaas_")}
    histograms = {name for name in ours if name.endswith(("_bucket", "_sum", "_count"))}
    named = (ours - histograms) | {name.rpartition("_")[0] for name in histograms}
    assert len(named) > 20
    assert [name for name in sorted(named) if f"| `{name}` |" not in reference["metrics"]] == []


def test_the_reference_has_every_field_of_a_manifest(reference: dict[str, str]) -> None:
    fields = {item.name for item in dataclasses.fields(Manifest)}
    assert {name for name in fields if f"| `{name}` |" not in reference["manifest"]} == set()
