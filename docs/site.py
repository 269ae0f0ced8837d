"""The documents as a site that works without a network: `python -m docs.site [FOLDER]`, or `make docs`.

The pages lie in the site as in the repository, so that a link leads to the same page here and on GitHub. What
is made of the code (docs/generated.py) is added under docs/reference, and nothing of it is committed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "docs"
CONFIG = ROOT / "docs" / "mkdocs.yml"
STYLE = ROOT / "docs" / "site.css"
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@cache
def links(document: Path) -> list[str]:
    """Where the document links to in this repository, as it is written."""
    found = LINK.findall(CODE.sub("", document.read_text()))
    return [link for link in found if not link.startswith(("http:", "https:"))]


def linked_files() -> set[Path]:
    """README, and every file that it leads to, over any number of links."""
    reached: set[Path] = set()
    waiting = {ROOT / "README.md"}
    while waiting:
        document = waiting.pop()
        reached.add(document)
        if document.suffix == ".md":
            targets = (link.partition("#")[0] for link in links(document))
            waiting |= {(document.parent / target).resolve() for target in targets if target} - reached
    return reached


def build(folder: Path) -> Path:
    """Lay the pages into `folder` and build the site in it; returns where the site lies.

    Raises CalledProcessError, after the generator's own words, where a link or a heading is missing.
    """
    from docs.generated import PAGES  # imports the whole façade

    shutil.rmtree(folder, ignore_errors=True)
    for file in {*linked_files(), STYLE}:
        target = folder / "pages" / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    for name, page in PAGES.items():
        target = folder / "pages" / "docs" / "reference" / f"{name}.md"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page())
    shutil.copyfile(CONFIG, folder / CONFIG.name)
    generator = [sys.executable, "-m", "zensical", "build", "--strict"]
    subprocess.run([*generator, "--config-file", str(folder / CONFIG.name)], check=True)
    return folder / "site"


if __name__ == "__main__":
    where = build(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else FOLDER)
    print(f"{where}: look at it with python3 -m http.server --bind 127.0.0.1 --directory {where}")
