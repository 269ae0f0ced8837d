"""The `lmaas` command: serve models, convert them, and use a running appliance from the terminal."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from cli import (
    compress,
    evaluate,
    export,
    inspect,
    keys,
    lifecycle,
    local,
    operations,
    perf,
    replay,
    store,
    tasks,
    train,
    triton,
)
from cli.command import Commands, fail
from client.http import API_KEY

OURS = frozenset({"api", "cli", "client", "export", "kernels", "perf", "runtime", "train"})
# Every other command needs `serve`.
EXTRAS = {
    "calibrate": "train",
    "evaluate": "train",
    "export": "export",
    "inspect": "export",
    "perf": "perf",
    "train": "train",
    "prune": "train",
    "distil": "train",
}


class Lmaas(Commands):
    """Ends a command with one line also where a package that it needs is not installed."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] in OURS:
                raise
            command = ctx.invoked_subcommand or ""
            extra = EXTRAS.get(command, "serve")
            fail(f"`lmaas {command}` needs {error.name}: pip install 'lmaas[{extra}]'")


app = typer.Typer(
    name="lmaas",
    cls=Lmaas,
    help=(
        "Language Models as a Service: GPT-2-sized models as ONNX, batched continuously "
        "inside NVIDIA Triton.\n\n"
        "`lmaas up` serves; everything below it talks to a running appliance (--url, or LMAAS_URL), "
        "with the API key in LMAAS_API_KEY where it needs one. "
        "Every listing takes --json."
    ),
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    api_key: Annotated[
        str | None,
        typer.Option(envvar=API_KEY, help="Of the appliance; safer in the variable.", show_envvar=True),
    ] = None,
) -> None:
    """What all commands that talk to an appliance have in common."""
    if api_key is not None:
        os.environ[API_KEY] = api_key


SERVE, USE, MANAGE = "Serve and convert", "Use models", "Manage models and servers"

app.command(rich_help_panel=SERVE)(local.up)
app.command(rich_help_panel=SERVE)(triton.triton)
app.command(rich_help_panel=SERVE)(triton.health)
app.command(rich_help_panel=SERVE)(export.export)
app.command(rich_help_panel=SERVE)(inspect.inspect)
app.add_typer(train.train, name="train", rich_help_panel=SERVE)
app.command(rich_help_panel=SERVE)(compress.prune)
app.command(rich_help_panel=SERVE)(compress.distil)
app.command(rich_help_panel=SERVE)(evaluate.evaluate)
app.command(rich_help_panel=SERVE)(local.config)
app.command(rich_help_panel=SERVE)(local.version)
app.add_typer(keys.keys, name="keys", rich_help_panel=SERVE)
app.add_typer(store.store, name="store", rich_help_panel=SERVE)
app.command(rich_help_panel=SERVE)(store.backup)
app.command(rich_help_panel=SERVE)(store.restore)
app.command(rich_help_panel=USE)(tasks.generate)
app.command(rich_help_panel=USE)(tasks.classify)
app.command(rich_help_panel=USE)(tasks.infer)
app.command(rich_help_panel=USE)(tasks.nlu)
app.command(rich_help_panel=USE)(replay.replay)
app.add_typer(lifecycle.models, name="models", rich_help_panel=MANAGE)
app.command(rich_help_panel=MANAGE)(lifecycle.deploy)
app.command(rich_help_panel=MANAGE)(lifecycle.undeploy)
app.command(rich_help_panel=MANAGE)(lifecycle.deployments)
app.command(rich_help_panel=MANAGE)(evaluate.calibrate)
app.command("tasks", rich_help_panel=MANAGE)(operations.tasks)
app.command(rich_help_panel=MANAGE)(operations.servers)
app.command(rich_help_panel=MANAGE)(operations.capacity)
app.add_typer(perf.perf, name="perf", rich_help_panel=MANAGE)

if __name__ == "__main__":
    app()
