"""`python -m train FOLDER`: a training as a process, in which the façade runs tasks of type `train`.

FOLDER has `request.json` (see `Request`), the files that it names, and below `artifact` a stored model to
begin with. The checkpoint is written to FOLDER/result/NAME, the run to FOLDER/result/NAME-training, from
which another call goes on, and what was measured to FOLDER/outcome.json at the end. Standard output has one
JSON object a line: progress, error, done.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from export.errors import ExportError
from export.protocol import own_standard_output
from train.data import DataError, Kind, Problem
from train.options import Options, make_options
from train.run_files import write_atomically

if TYPE_CHECKING:
    from train.job import Data, Outcome

REQUEST, OUTCOME, RESULT = "request.json", "outcome.json", "result"
INPUT_AT_FAULT = 2  # exit status
MACHINE_AT_FAULT = 3
MOST_LINES = 50  # of a report


@dataclass(frozen=True)
class Request:
    """What a training is asked for. Files are names in its folder; `artifact` is a stored model's folder."""

    name: str  # of the model
    kind: str
    options: Mapping[str, Any]  # by the names of train/options.py; not those of files
    train: str
    held_out: str  # a file, or a share
    test: str | None
    start: str | None  # FOLDER/artifact/NAME is the stored model to begin with
    max_rows: int

    @classmethod
    def read(cls, folder: Path) -> Request:
        return cls(**json.loads((folder / REQUEST).read_text("utf-8")))

    def options_in(self, folder: Path, start: Path | None) -> Options:
        """The options of the run. Raises ValueError where they do not go together."""
        given = dict(self.options)
        if "problem" in given:
            given["problem"] = Problem(given["problem"])
        file = (folder / self.held_out).is_file()
        options = make_options(
            Kind(self.kind),
            **given,
            train=folder / self.train,
            held_out=str(folder / self.held_out) if file else self.held_out,
            test=None if self.test is None else folder / self.test,
            start=None if start is None else str(start),
            out=folder / RESULT / self.name,
        )
        options.check(Kind(self.kind))
        return options


def main(folder: Path, output: TextIO) -> int:
    """Returns the exit status: 0 trained, 2 the request is wrong, 3 the machine failed."""

    def emit(event: str, **values: object) -> None:
        print(json.dumps({"event": event, **values}), file=output, flush=True)

    try:
        train(folder, emit)
    except DataError as error:
        emit("error", file=error.path.name, row=error.row, field=error.field, message=error.message)
        return INPUT_AT_FAULT
    except (ExportError, ValueError) as error:
        emit("error", message=str(error).replace(f"{folder}/", ""))
        return INPUT_AT_FAULT
    except OSError as error:
        emit("error", message=f"{error.strerror or error} ({type(error).__name__})")
        return MACHINE_AT_FAULT
    emit("done")
    return 0


def train(folder: Path, emit: Any) -> None:
    """Run the request, or what is left of it. Raises DataError, ExportError, ValueError, OSError."""
    request = Request.read(folder)
    emit("progress", stage="starting", done=0, total=1)
    options = request.options_in(folder, _start(folder, request))
    # A process that died after its last step left a checkpoint, and figures of it nowhere.
    shutil.rmtree(options.out, ignore_errors=True)
    options = replace(options, resume=(options.run_folder / "options.json").exists())
    if not options.resume:
        shutil.rmtree(options.run_folder, ignore_errors=True)
    from train.callbacks import RunProgress
    from train.job import Change, RunError, run
    from train.trainer import Loop

    class Reported(Change):
        def accept(self, data: Data) -> None:
            count = len(data.train) + len(data.held_out) + len(data.test)
            if count > request.max_rows:
                raise RunError(f"data: {count} rows, at most {request.max_rows} are taken")

        def loop(self, loop: Loop) -> Loop:
            return replace(loop, progress=False, report=report)

    def report(progress: RunProgress) -> None:
        found = {name: rounded(value) for name, value in asdict(progress).items() if value not in (None, {})}
        emit("progress", stage="training", done=found.pop("step"), total=found.pop("steps"), **found)

    lines: list[str] = []
    command = f"a task of type `train` ({request.kind})"
    outcome = run(Kind(request.kind), options, lines.append, command, Reported())
    write_atomically(folder / OUTCOME, json.dumps(_summary(outcome, lines)))


def _start(folder: Path, request: Request) -> Path | None:
    """The checkpoint of the stored model to begin with."""
    if request.start is None:
        return None
    from train.stored import write_checkpoint

    checkpoint, partial = folder / "checkpoint" / request.start, folder / "partial"
    if not checkpoint.exists():
        shutil.rmtree(partial, ignore_errors=True)
        checkpoint.parent.mkdir(exist_ok=True)
        write_checkpoint(folder / "artifact" / request.start, partial, request.start).rename(checkpoint)
    return checkpoint


def _summary(outcome: Outcome, lines: list[str]) -> dict[str, Any]:
    test = None if outcome.test is None else _finite(outcome.test)
    # The last lines are the figures, and the command that pushes the result.
    said = lines[: -2 if test is None else -3]
    return {
        "held_out": _finite(outcome.held_out),
        "test": test,
        "seconds": outcome.seconds,
        "steps": outcome.estimate.steps,
        "rows": len(outcome.data.train),
        "report": [line.strip() for line in said[:MOST_LINES]],
    }


def rounded(value: Any) -> Any:
    """Numbers of an event with as many digits as a reader needs."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), own_standard_output()))
