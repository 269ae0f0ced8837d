"""`python -m export SOURCE OUTPUT`: the exporter as a process, in which the façade converts uploads."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from export.errors import ExportError
from export.members import ArchiveLimits
from export.progress import Progress
from export.protocol import own_standard_output
from export.source import export_source
from export.verification.verify import require_passed, verification_summary, verify
from runtime.contract import Variant


def main(arguments: list[str] | None = None) -> int:
    """Run in this process; libraries may print to the same standard output."""
    return run(_parser().parse_args(arguments), sys.stdout)


class Events:
    """What happens, as lines: for programs one JSON object each, for people sentences."""

    def __init__(self, output: TextIO, *, as_json: bool) -> None:
        self._output = output
        self._as_json = as_json

    def emit(self, event: str, **values: object) -> None:
        if self._as_json:
            print(json.dumps({"event": event, **values}), file=self._output, flush=True)
        elif event == "progress":
            print(f"[{values['done']}/{values['total']}] {values['stage']}", file=self._output, flush=True)
        elif event == "verified":
            print(values["message"], file=self._output, flush=True)
        elif event == "error":
            print(f"error: {values['message']}", file=sys.stderr, flush=True)

    def show(self, progress: Progress) -> None:
        if progress.share == 0:
            self.emit("progress", stage=progress.stage, done=progress.done, total=progress.total)

    def verify(self, checkpoint: Path, artifact: Path) -> str:
        """Compare with other implementations, row by row."""
        rows = verify(checkpoint, artifact, report=self.show)
        for row in rows:
            passed = row.passed if row.ran else None
            self.emit("verified", **asdict(row), passed=passed, message=row.sentence)
        require_passed(rows)
        return verification_summary(rows)


def run(options: argparse.Namespace, output: TextIO) -> int:
    """Returns the exit status: 0 artifact written, 2 the input is wrong, 3 the machine failed."""
    events = Events(output, as_json=options.json_progress)
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
            verify=events.verify if options.verify else None,
            report=events.show,
        )
    except ExportError as error:
        events.emit("error", field=error.field, message=error.message)
        return 2
    except OSError as error:
        # The machine failed, not the input: a full disk, a folder that cannot be written.
        events.emit("error", field=None, message=f"{error.strerror or error} ({type(error).__name__})")
        return 3
    events.emit("done")
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
    sys.exit(run(_parser().parse_args(), own_standard_output()))
