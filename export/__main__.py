"""`python -m export SOURCE OUTPUT`: export in a process of its own, as the façade does with uploads."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from export.archive import ArchiveLimits
from export.errors import ExportError
from export.progress import Progress
from export.source import export_source
from export.verification.verify import require_passed, verification_summary, verify
from runtime.contract import Variant


def main(arguments: list[str] | None = None) -> int:
    """0 when the artifact is written, 2 when the input is at fault, 3 when the machine is."""
    options = _parser().parse_args(arguments)

    def tell(event: str, **values: object) -> None:
        if options.json_progress:
            print(json.dumps({"event": event, **values}), flush=True)
        elif event == "progress":
            print(f"[{values['done']}/{values['total']}] {values['stage']}", flush=True)
        elif event == "verified":
            print(values["message"], flush=True)
        elif event == "error":
            print(f"error: {values['message']}", file=sys.stderr, flush=True)

    def show(progress: Progress) -> None:
        if progress.share == 0:
            tell("progress", stage=progress.stage, done=progress.done, total=progress.total)

    def check(checkpoint: Path, artifact: Path) -> str:
        rows = verify(checkpoint, artifact, report=show)
        for row in rows:
            tell("verified", **asdict(row), passed=row.passed if row.ran else None, message=row.sentence)
        require_passed(rows)
        return verification_summary(rows)

    try:
        variants = [_variant(text) for text in options.variants.split(",")]
        export_source(
            options.source,
            options.output,
            name=options.name,
            variants=variants,
            overwrite=options.overwrite,
            limits=ArchiveLimits(max_unpacked_bytes=options.max_unpacked_bytes),
            calibration=options.calibration,
            verify=check if options.verify else None,
            report=show,
        )
    except ExportError as error:
        tell("error", field=error.field, message=error.message)
        return 2
    except OSError as error:
        # The machine's fault, not the input's: a full disk, a folder that may not be written.
        tell("error", field=None, message=f"{error.strerror or error} ({type(error).__name__})")
        return 3
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
        "source", help="a Hugging Face folder, an archive of one or of an artifact, or a name on the hub"
    )
    parser.add_argument("output", type=Path, help="the artifact's folder, which must not exist yet")
    parser.add_argument("--name", required=True, help="the model's name in the manifest")
    parser.add_argument("--variants", default="fp32,int8", help="comma-separated (default: %(default)s)")
    parser.add_argument(
        "--max-unpacked-bytes",
        type=int,
        default=ArchiveLimits().max_unpacked_bytes,
        help="what an archive may unpack to (default: %(default)s)",
    )
    parser.add_argument("--calibration", type=Path, help="a file of text to compare variants on")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare fp32 with transformers and optimum, where they are not installed with a NumPy GPT-2",
    )
    parser.add_argument("--json-progress", action="store_true", help="one JSON object per line on stdout")
    return parser


if __name__ == "__main__":
    sys.exit(main())
