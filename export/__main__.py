"""`python -m export SOURCE OUTPUT`: export in a process of its own, as the façade does with uploads."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from export.errors import ExportError
from export.pipeline import Progress, export_checkpoint
from runtime.contract import Variant


def main(arguments: list[str] | None = None) -> int:
    """0 when the artifact is written, 2 with one message when the input is at fault."""
    options = _parser().parse_args(arguments)

    def tell(event: str, **values: object) -> None:
        if options.json_progress:
            print(json.dumps({"event": event, **values}), flush=True)
        elif event == "progress":
            print(f"[{values['done']}/{values['total']}] {values['stage']}", flush=True)
        elif event == "error":
            print(f"error: {values['message']}", file=sys.stderr, flush=True)

    def show(progress: Progress) -> None:
        tell("progress", stage=progress.stage, done=progress.done, total=progress.total)

    try:
        variants = [_variant(text) for text in options.variants.split(",")]
        export_checkpoint(
            options.source,
            options.output,
            name=options.name,
            variants=variants,
            overwrite=options.overwrite,
            progress=show,
        )
    except ExportError as error:
        tell("error", field=error.field, message=error.message)
        return 2
    tell("done")
    return 0


def _variant(text: str) -> Variant:
    try:
        return Variant(text.strip())
    except ValueError:
        choices = ", ".join(variant.value for variant in Variant)
        raise ExportError(f"variants: {text.strip()!r} is not one of {choices}", field="variants") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument(
        "source", type=Path, help="a Hugging Face folder, or an archive of one or of an artifact"
    )
    parser.add_argument("output", type=Path, help="the artifact's folder, which must not exist yet")
    parser.add_argument("--name", required=True, help="the model's name in the manifest")
    parser.add_argument("--variants", default="fp32,int8", help="comma-separated (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument("--json-progress", action="store_true", help="one JSON object per line on stdout")
    return parser


if __name__ == "__main__":
    sys.exit(main())
