"""`lmaas evaluate` and `lmaas calibrate`: figures of a model on labelled rows, and corrected scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.command import AsJson, Url, fail
from cli.lifecycle import model_path
from cli.show import plain, print_json, print_table
from client.http import DEFAULT_URL, Client
from runtime.calibration import CALIBRATION_FILE, Calibration
from runtime.contract import Kind

if TYPE_CHECKING:
    from train.evaluation.report import Report, Table

Places = Annotated[
    list[str],
    typer.Argument(
        metavar="TARGET DATA",
        help="A checkpoint's or an artifact's folder, or MODEL or MODEL/VERSION of an appliance; two of them"
        " with --compare. Then a file of rows: .jsonl, .csv, .tsv or .txt.",
        show_default=False,
    ),
]


class ProblemName(str, Enum):
    SINGLE = "single"
    MULTI = "multi"
    REGRESSION = "regression"


OutOfScope = Annotated[
    str | None, typer.Option("--out-of-scope", help="Label of rows that have none of the model's labels.")
]
Precision = Annotated[str | None, typer.Option(help="Of an artifact; default: fp32.")]
Threads = Annotated[int, typer.Option(help="Of a model that runs in this process.", min=1)]


def evaluate(
    places: Places,
    compare: Annotated[
        bool, typer.Option("--compare", help="Two targets side by side, with the significance.")
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option(help="A file of training rows: a linear model is trained on them and set beside."),
    ] = None,
    kind: Annotated[Kind, typer.Option(help="Of the rows, for a baseline alone.")] = Kind.CLASSIFIER,
    problem: Annotated[ProblemName, typer.Option(help="Likewise.")] = ProblemName.SINGLE,
    precision: Precision = None,
    window: Annotated[
        int | None,
        typer.Option(help="Most tokens that a language model reads at once; default: its context.", min=2),
    ] = None,
    out_of_scope: OutOfScope = None,
    threshold: Annotated[
        float | None, typer.Option(help="An answer whose highest score is less abstains.", min=0, max=1)
    ] = None,
    raw_scores: Annotated[
        bool, typer.Option("--raw-scores", help="Leave the version's calibration out.")
    ] = False,
    resamples: Annotated[int, typer.Option(help="For the intervals; 0: none.", min=0)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0,
    latency_requests: Annotated[
        int, typer.Option(help="Whose times are taken one after another; 0: none.", min=0)
    ] = 100,
    threads: Threads = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the figures as Markdown.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Write pictures into this folder.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Measure a checkpoint, an artifact or a running deployment on labelled rows."""
    *names, data = places
    wanted = (2,) if compare else (0, 1) if baseline else (1,)
    if len(names) not in wanted:
        needed = "two targets and a data file" if compare else "a target and a data file"
        raise typer.BadParameter(f"{needed} are needed", param_hint="TARGET DATA")
    with _one_line_for_errors():
        from train.data import Problem
        from train.evaluation.bootstrap import Resampling
        from train.evaluation.evaluate import Settings
        from train.evaluation.places import Options
        from train.evaluation.run import Plan, run

        settings = Settings(Resampling(resamples, seed), latency_requests, window, out_of_scope, threshold)
        options = Options(url, precision, threads, raw_scores)
        of_rows = (kind, Problem(problem.value))
        found = run(Plan(names, Path(data), baseline, *of_rows, settings, options), _progress)
        _show(found)
        _write(found, json_file, markdown, plots)


@contextmanager
def _progress(name: str, rows: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where a terminal shows it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(escape(plain(name)), total=rows)
        yield lambda count: shown.advance(task, count)


def _show(found: Report) -> None:
    from train.evaluation import report

    for each in found.evaluations:
        print(f"\n{plain(each.about.name)}: {plain(report.about_line(each))}")
        _print(report.figure_table(each))
        for title, table in report.detail_tables(each.measured):
            print(title)
            _print(table)
        _print(report.speed_table(each.speed))
    if found.differences:
        print("Differences, the second less the first:")
        _print(report.difference_table(found.differences))
    print(plain(f"{found.data}: {found.rows} rows. {found.method}"))


def _print(table: Table) -> None:
    print_table(*table, "none")


def _write(found: Report, json_file: Path | None, markdown: Path | None, plots: Path | None) -> None:
    """The files that were asked for, and their names."""
    written = []
    if json_file is not None:
        json_file.write_text(json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n", "utf-8")
        written.append(json_file)
    if markdown is not None:
        markdown.write_text(found.to_markdown(), "utf-8")
        written.append(markdown)
    if plots is not None:
        from train.evaluation.plots import draw_plots

        written += [path for each in found.evaluations for path in draw_plots(each, plots)]
    for path in written:
        print(plain(str(path)))


def calibrate(
    target: Annotated[
        str,
        typer.Argument(metavar="MODEL[/VERSION]", help="What is deployed, or the folder of an artifact."),
    ],
    data: Annotated[Path, typer.Argument(help="Labelled rows that it was not trained on.")],
    target_accuracy: Annotated[
        float | None,
        typer.Option(help="Abstain so often that this share of the other answers is right.", min=0, max=1),
    ] = None,
    out_of_scope: OutOfScope = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be stored.")] = False,
    precision: Precision = None,
    threads: Threads = 2,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Find a temperature and a threshold from labelled rows, and store them with the version.

    Its answers then carry corrected scores, and say `abstained` where the highest is under the threshold.
    --target-accuracy chooses the threshold by the share of right answers, and --out-of-scope by the best F1
    of finding the rows with that label; with neither there is none. `lmaas models uncalibrate` removes both.
    """
    with _one_line_for_errors():
        from train.evaluation.calibration import Aim
        from train.evaluation.places import Options
        from train.evaluation.run import calibrate

        options = Options(url, precision, threads, raw_scores=True)
        about, found = calibrate(target, data, Aim(target_accuracy, out_of_scope), options, _progress)
        if not dry_run:
            _store(target, about.place, about.version, found, url)
    if as_json:
        print_json(asdict(found))
        return
    rows = [("temperature", f"{found.temperature:g}")]
    if found.threshold is not None:
        rows.append(("threshold", f"{found.threshold:g}, for {found.criterion}"))
    rows += [(name, f"{value:.4f}") for name, value in found.figures.items() if name != "threshold"]
    print_table((f"on {found.rows} rows", ""), rows, "")
    print(plain(f"{about.name}: {'nothing was stored' if dry_run else 'stored; its answers use it now'}"))


def _store(name: str, place: str, version: int | None, found: Calibration, url: str) -> None:
    if place == "artifact":
        (Path(name) / CALIBRATION_FILE).write_text(found.to_json(), "utf-8")
    elif version is not None:
        with Client(url) as client:
            path = model_path(name.partition("/")[0], str(version))
            client.call("PUT", f"{path}/calibration", json=asdict(found))
    else:
        fail(f"{plain(name)}: it is stored with a deployed version, or beside an artifact: export it first")


@contextmanager
def _one_line_for_errors() -> Iterator[None]:
    """What cannot be read, opened or evaluated ends the command with one line."""
    from export.errors import ExportError

    try:
        yield
    except (ExportError, ValueError) as error:
        fail(plain(str(error)))
    except OSError as error:
        fail(plain(f"{error.filename or 'the system'}: {error.strerror or error}"))
