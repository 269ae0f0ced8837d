"""What many commands have in common: options, and one line in place of a traceback."""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from cli.show import plain
from client.errors import ClientError
from client.http import API_KEY
from perf.errors import PerfError

Url = Annotated[str, typer.Option("--url", envvar="LMAAS_URL", help="Where the appliance answers.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


# What messages of the API call otherwise than the command line does.
IN_COMMANDS = {
    "?force=true": "--force",
    '"force": true': "--force",
    "send one as `Authorization: Bearer KEY`": f"set {API_KEY}",
    "GET /v1/deployments": "`lmaas deployments`",
    "GET /v1/servers": "`lmaas servers`",
}


def fail(message: str) -> NoReturn:
    """Print one line on standard error and leave with status 1."""
    for of_http, of_commands in IN_COMMANDS.items():
        message = message.replace(of_http, of_commands)
    sys.stderr.write(f"lmaas: {message}\n")
    raise typer.Exit(1)


class Commands(TyperGroup):
    """A group whose commands end with one line where a call or a measurement fails."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ClientError, PerfError) as error:
            fail(plain(str(error)))
