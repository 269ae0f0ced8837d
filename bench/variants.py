"""The quality cards of the bundled models, written into their model cards.

    python -m bench variants

Each model is exported in every precision and compared with fp32 as an upload is; the section "Variants" of
models/NAME/README.md is written again.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from cli.show import quality, size
from export.pipeline import export_checkpoint
from perf.report import markdown_table
from runtime.contract import Kind, Variant
from runtime.manifest import Manifest

MODELS = Path(__file__).resolve().parents[1] / "models"
SECTION = re.compile(r"## Variants\n.*?(?=^## |\Z)", re.S | re.M)


def section(manifest: Manifest) -> str:
    rows = [
        (variant.value, size(entry.size), quality(entry.quality) or "the reference")
        for variant, entry in manifest.variants.items()
    ]
    card = next(entry.quality for entry in manifest.variants.values() if entry.quality)
    if manifest.kind is Kind.LM:
        compared = f"{card['tokens']:.0f} tokens that the model wrote itself, and greedy answers"
    else:
        compared = f"{card['texts']:.0f} sentences, mixtures and pairs of them"
    return (
        "## Variants\n\n"
        f"What `lmaas export` makes of it, compared with fp32 on {compared} (`python -m bench variants`).\n\n"
        f"{markdown_table(('variant', 'size', 'against fp32'), rows)}\n"
    )


def write_section(card: Path, text: str) -> None:
    """Replace the section, or add it before "Limits", which comes last."""
    old = card.read_text("utf-8")
    new, found = SECTION.subn(lambda _: text, old)
    card.write_text(new if found else old.replace("## Limits\n", f"{text}## Limits\n"), "utf-8")


def variants() -> None:
    for folder in sorted(path.parent for path in MODELS.glob("*/config.json")):
        with TemporaryDirectory() as scratch:
            manifest = export_checkpoint(
                folder, Path(scratch) / "artifact", name=folder.name, variants=tuple(Variant)
            )
        text = section(manifest)
        write_section(folder / "README.md", text)
        print(f"{folder.name}\n\n{text}", flush=True)
