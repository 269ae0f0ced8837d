"""`lmaas train lm | classifier | nlu`: from rows of text to a checkpoint that `lmaas models push` takes."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, get_args, get_type_hints

import typer

from cli.command import fail
from cli.show import plain
from client.errors import ClientError
from train.data import DataError, Kind
from train.options import About, Options, described, flags

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

    hints = get_type_hints(Options, include_extras=True)
    parameters = []
    for field in fields(Options):
        about = described()[field.name]
        if kind in about.kinds:
            own = dict(about.defaults).get(kind, field.default)
            default = _option(field.name, about, ... if own is MISSING else own)
            type_of = get_args(hints[field.name])[0]
            keyword = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(field.name, keyword, default=default, annotation=type_of))
    command.__doc__ = WHAT[kind]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _option(name: str, about: About, default: Any) -> Any:
    variable = "LMAAS_URL" if name == "url" else None
    return typer.Option(
        default, "/".join(flags(name)), help=about.what, min=about.low, max=about.high, envvar=variable
    )


def _run(kind: Kind, options: Options) -> None:
    """Run it here, with one line in place of a traceback where it cannot be."""
    from export.errors import ExportError
    from train.job import run

    try:
        run(kind, options, _show, _command_line())
    except KeyboardInterrupt:
        sys.stderr.write("lmaas: interrupted: the same command with --resume goes on after the last save\n")
        raise typer.Exit(INTERRUPTED) from None
    except (DataError, ExportError, ClientError, ValueError) as error:
        fail(plain(str(error)))
    except OSError as error:
        fail(plain(f"{error.filename or options.out}: {error.strerror or error}"))


def _show(line: str) -> None:
    sys.stderr.write(f"{plain(line)}\n")


def _command_line() -> str:
    """What the user wrote, for the card."""
    arguments = sys.argv[1:] if sys.argv[1:2] == ["train"] else ["train", *sys.argv[1:]]
    return shlex.join(["lmaas", *(argument for argument in arguments if argument != "--resume")])


for _kind in Kind:
    train.command(_kind.value)(_command(_kind))
