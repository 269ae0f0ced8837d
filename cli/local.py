"""`lmaas up`, `config`, `version`: the appliance on this machine."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cli.command import AsJson, fail
from cli.show import plain, print_json, print_table
from client.http import API_KEY

if TYPE_CHECKING:
    from api.back.store.database import Database
    from api.config import Settings

Result = TypeVar("Result")
CLIENT_VARIABLES = frozenset({"LMAAS_URL", API_KEY})  # of the commands that talk to an appliance


def settings_now(**overrides: str | None) -> Settings:
    """The settings of environment and command line; a bad one ends the command with one line."""
    from api.environment import SettingsError, load_settings

    environment = {name: value for name, value in os.environ.items() if name not in CLIENT_VARIABLES}
    environment |= {f"LMAAS_{name.upper()}": value for name, value in overrides.items() if value is not None}
    try:
        return load_settings(environment)
    except SettingsError as error:
        fail(str(error))


def on_database(work: Callable[[Database, Settings], Awaitable[Result]]) -> Result:
    """Do it on the database of the settings; an error ends the command with one line."""
    from api.back.home import OTHERS
    from api.back.store.database import Database
    from api.errors import ApiError

    settings = settings_now()

    async def with_database() -> Result:
        async with Database.open(settings.back.database) as database:
            return await work(database, settings)

    os.umask(OTHERS)
    try:
        if settings.database_url is None:
            settings.home.mkdir(parents=True, exist_ok=True)
        return asyncio.run(with_database())
    except (ApiError, OSError) as error:
        fail(plain(str(error)))


async def record_change(database: Database, settings: Settings, action: str, target: str) -> None:
    """Put what a command changed into the audit log. Raises StoreUnavailable."""
    from api.back.store.audit import AuditStore
    from api.back.store.records import AuditRecord, now
    from api.middle.accounts import LONGEST_TARGET
    from api.middle.new_records import new_id

    audit = AuditStore(database, timedelta(days=settings.audit_retention_days))
    target = target[:LONGEST_TARGET]
    await audit.add(AuditRecord(new_id(), now(), _account(), "local", action, target, "done"))


def _account() -> str:
    """Whose command this is; a container may have no name for its user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API; 0 takes a free one.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of all state.")] = None,
    facades: Annotated[
        int | None, typer.Option(help="Façade processes on that port; more than 1 need PostgreSQL.")
    ] = None,
    member: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve: start Triton and the API, import the bundled models once, and stay until Ctrl-C.

    Every other setting is an LMAAS_ variable; `lmaas config` lists them.
    """
    given = {"host": host, "port": port, "home": home, "facades": facades}
    settings = settings_now(**{name: None if value is None else str(value) for name, value in given.items()})
    if settings.facades > 1:
        from cli.facades import serve_several

        raise typer.Exit(serve_several(settings))
    from cli.member import Member
    from cli.serving import serve

    # `serve_several` started this process.
    raise typer.Exit(serve(settings, Member.parse(member) if member else None))


def config(as_json: AsJson = False) -> None:
    """Print every setting: variable, value, default, meaning."""
    from api.environment import settings_rows

    rows = settings_rows(settings_now())
    if as_json:
        print_json({name: value for name, value, _, _ in rows})
    else:
        print_table(("variable", "value", "default", "what"), rows, "no settings")


def version(as_json: AsJson = False) -> None:
    """Print the version, and the versions of the main packages."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of

    from kernels.library import described_level

    def installed(package: str) -> str:
        try:
            return of(package)
        except PackageNotFoundError:
            return "not installed"

    packages = ("lmaas", "onnxruntime", "onnx", "tokenizers", "starlette", "tritonclient", "nvidia-pytriton")
    versions = {"python": sys.version.split()[0]} | {package: installed(package) for package in packages}
    versions["kernels"] = described_level()
    if as_json:
        print_json(versions)
    else:
        for package, number in versions.items():
            print(f"{package} {number}")
