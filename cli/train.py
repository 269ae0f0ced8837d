"""`lmaas train lm | classifier | nlu`: from rows of text to a checkpoint that `lmaas models push` takes."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer

from cli.command import fail
from cli.show import plain
from client.errors import ClientError
from train.data import DataError, Kind
from train.options import About, Options, described, flags

COMMANDS = (["train"], ["prune"], ["distil"])
INTERRUPTED = 130  # the exit status of what Ctrl-C ended

train = typer.Typer(
    help="Train a model on rows of text; the result is a checkpoint for `lmaas models push`.",
    no_args_is_help=True,
)

WHAT = {
    Kind.LM: "Train a language model on documents.",
    Kind.CLASSIFIER: "Train a classifier of texts or pairs of texts: one class, several, or a value.",
    Kind.NLU: "Train a model that finds the intent of an utterance and its slots, jointly.",
}


def _command(kind: Kind) -> Callable[..., None]:
    """The command of a kind; its parameters are those of Options that this kind has."""

    def command(**given: Any) -> None:
        _run(kind, Options(**given))

    parameters = option_parameters([n for n, about in described().items() if kind in about.kinds], kind)
    command.__doc__ = WHAT[kind]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def option_parameters(names: Sequence[str], kind: Kind | None = None) -> list[inspect.Parameter]:
    """Parameters of a command for these fields of Options.

    Without a kind, a field whose default depends on it has None.
    """
    hints = get_type_hints(Options, include_extras=True)
    defaults = {field.name: field.default for field in fields(Options)}
    parameters = []
    for name in names:
        about, type_of = described()[name], get_args(hints[name])[0]
        own = defaults[name] if kind is None else dict(about.defaults).get(kind, defaults[name])
        if kind is None and about.defaults:
            own, type_of = None, type_of | None
        default = _option(name, about, ... if own is MISSING else own)
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, keyword, default=default, annotation=type_of))
    return parameters


def _option(name: str, about: About, default: Any) -> Any:
    variable = "LMAAS_URL" if name == "url" else None
    return typer.Option(
        default, "/".join(flags(name)), help=about.what, min=about.low, max=about.high, envvar=variable
    )


def _run(kind: Kind, options: Options) -> None:
    from train.job import run

    with one_line_errors(options.out):
        run(kind, options, show, command_line())


@contextmanager
def one_line_errors(out: Path) -> Iterator[None]:
    """One line in place of a traceback where a run of `out` cannot be, or was interrupted."""
    from export.errors import ExportError

    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("lmaas: interrupted: the same command with --resume goes on after the last save\n")
        raise typer.Exit(INTERRUPTED) from None
    except (DataError, ExportError, ClientError, ValueError) as error:
        fail(plain(str(error)))
    except OSError as error:
        fail(plain(f"{error.filename or out}: {error.strerror or error}"))


def show(line: str) -> None:
    """On standard error: what a run has to say."""
    sys.stderr.write(f"{plain(line)}\n")


def command_line() -> str:
    """What the user wrote, for the card."""
    arguments = sys.argv[1:] if sys.argv[1:2] in COMMANDS else ["train", *sys.argv[1:]]
    return shlex.join(["lmaas", *(argument for argument in arguments if argument != "--resume")])


for _kind in Kind:
    train.command(_kind.value)(_command(_kind))
