"""`lmaas export`: from a checkpoint to an artifact, without a server."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.command import fail
from cli.show import plain, print_table, quality, size
from runtime.contract import Variant
from runtime.manifest import Manifest

if TYPE_CHECKING:
    from export.progress import Report
    from export.verification.verify import Verification

INTERRUPTED = 130  # the exit status of what Ctrl-C ended
VARIANTS_HELP = (
    "Comma-separated. fp32: the reference, exact. fp16: half its size, for GPUs. int8: a quarter, quick"
    " on CPUs. int4: the smallest, the furthest from fp32."
)


Source = Annotated[
    str,
    typer.Argument(
        help="A checkpoint's folder in Hugging Face layout, an archive of one, or a name on the"
        " Hugging Face hub: gpt2, owner/name, name@revision.",
        show_default=False,
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="The artifact's folder; it must not exist yet.")]
Adapter = Annotated[
    Path | None,
    typer.Option(
        help="A LoRA of PEFT to merge into the checkpoint: the folder of its adapter_config.json.",
        exists=True,
        file_okay=False,
    ),
]
Name = Annotated[str | None, typer.Option(help="The model's name; the source's own without it.")]
Calibration = Annotated[
    Path | None,
    typer.Option(
        help="A file of text to compare variants on; for a classifier one text a line, or two with a tab"
        " between. Without it, text that the model writes itself, or sentences of many kinds.",
    ),
]
WithVerify = Annotated[
    bool,
    typer.Option("--verify", help="Compare fp32 with transformers and optimum, where they are installed."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]


def export(
    source: Source,
    output: Output,
    name: Name = None,
    adapter: Adapter = None,
    variants: Annotated[str, typer.Option(help=VARIANTS_HELP)] = "fp32,int8",
    calibration: Calibration = None,
    verify: WithVerify = False,
    overwrite: Overwrite = False,
) -> None:
    """Convert a checkpoint to an artifact: one measured ONNX graph per variant."""
    begin = time.monotonic()
    try:
        from export.errors import ExportError

        try:
            manifest = _export(
                source,
                output,
                name or _own_name(source),
                _variants(variants),
                calibration,
                adapter=adapter,
                overwrite=overwrite,
                verify=verify,
            )
        except ExportError as error:
            fail(plain(str(error)))
        except OSError as error:
            fail(plain(f"{error.filename or output}: {error.strerror or error}"))
    except KeyboardInterrupt:
        sys.stderr.write("lmaas: interrupted: nothing was written\n")
        raise typer.Exit(INTERRUPTED) from None
    seconds = time.monotonic() - begin
    print(plain(f"{output}: {manifest.name}, kind {manifest.kind.value}, in {seconds:.1f} s"))


def _export(
    source: str,
    output: Path,
    name: str,
    variants: Sequence[Variant],
    calibration: Path | None,
    *,
    adapter: Path | None,
    overwrite: bool,
    verify: bool,
) -> Manifest:
    """Show the stages, print the tables. Raises ExportError, also where verification finds a difference."""
    from cli.stages import stages_shown
    from export.members import ArchiveLimits
    from export.source import export_source
    from export.verification.verify import COLUMNS, verification_rows

    rows: list[Verification] = []
    try:
        with stages_shown() as show:
            manifest = export_source(
                source,
                output,
                name=name,
                variants=variants,
                overwrite=overwrite,
                limits=ArchiveLimits(),
                adapter=adapter,
                calibration=calibration,
                verify=partial(_verify, rows, show) if verify else None,
                report=show,
            )
    finally:  # figures are shown also where verification failed
        if rows:
            print_table(COLUMNS, verification_rows(rows), "")
    _print_variants(manifest)
    return manifest


def _verify(rows: list[Verification], show: Report, checkpoint: Path, artifact: Path) -> str:
    """Compare with other implementations; `rows` gets the figures also where they differ."""
    from export.verification import verify as verification

    rows += verification.verify(checkpoint, artifact, report=show)
    verification.require_passed(rows)
    return verification.verification_summary(rows)


def _variants(text: str) -> list[Variant]:
    known = [variant.value for variant in Variant]
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            fail(plain(f"--variants: {name!r} is not one of {', '.join(known)}"))
    return [Variant(name) for name in names]


def _own_name(source: str) -> str:
    """The name of the folder or repository, or of the archive without its endings."""
    from export.hub import HubName

    path = Path(source)
    if not path.exists() and (hub := HubName.parse(source)) is not None:
        return hub.repository.rpartition("/")[2]
    name = path.resolve().name
    return name if path.is_dir() else name.split(".")[0]


def _print_variants(manifest: Manifest) -> None:
    rows = [
        (variant.value, size(entry.size), f"{entry.load_seconds:.2f} s", quality(entry.quality))
        for variant, entry in manifest.variants.items()
    ]
    print_table(("variant", "size", "load", "against fp32"), rows, "no variants")
    if notes := manifest.provenance.get("notes"):
        print(plain(f"note: {notes}"))
