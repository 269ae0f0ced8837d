"""`lmaas up`, `config`, `version`: the appliance on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.client import AsJson, fail
from cli.show import print_json, print_table

if TYPE_CHECKING:
    from api.config import Settings

CLIENT_VARIABLES = frozenset({"LMAAS_URL"})  # of the commands that talk to an appliance


def settings_now(**overrides: str | None) -> Settings:
    """The settings of environment and command line; a bad one ends the command with one line."""
    from api.config import SettingsError, load_settings

    environment = {name: value for name, value in os.environ.items() if name not in CLIENT_VARIABLES}
    environment |= {f"LMAAS_{name.upper()}": value for name, value in overrides.items() if value is not None}
    try:
        return load_settings(environment)
    except SettingsError as error:
        fail(str(error))


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API; 0 takes a free one.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of all state.")] = None,
) -> None:
    """Serve: start Triton and the API, import the bundled models once, and stay until Ctrl-C.

    Every other setting is an LMAAS_ variable; `lmaas config` lists them.
    """
    settings = settings_now(
        host=host, port=None if port is None else str(port), home=None if home is None else str(home)
    )
    from cli.serving import serve

    raise typer.Exit(serve(settings))


def config(as_json: AsJson = False) -> None:
    """Print every setting: variable, value, default, meaning."""
    from api.config import settings_rows

    rows = settings_rows(settings_now())
    if as_json:
        print_json({name: value for name, value, _, _ in rows})
    else:
        print_table(("variable", "value", "default", "what"), rows, "no settings")


def version(as_json: AsJson = False) -> None:
    """Print the version, and those of what it stands on."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of

    def installed(package: str) -> str:
        try:
            return of(package)
        except PackageNotFoundError:
            return "not installed"

    packages = ("lmaas", "onnxruntime", "onnx", "tokenizers", "starlette", "tritonclient", "nvidia-pytriton")
    versions = {"python": sys.version.split()[0]} | {package: installed(package) for package in packages}
    if as_json:
        print_json(versions)
    else:
        for package, number in versions.items():
            print(f"{package} {number}")
