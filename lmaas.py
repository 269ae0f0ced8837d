"""The `lmaas` command: serve models, convert them, and use a running appliance from the terminal."""

from __future__ import annotations

import typer

from cli import export, inspect, lifecycle, local, operations, perf, tasks

app = typer.Typer(
    name="lmaas",
    help=(
        "Language Models as a Service: GPT-2-sized models as ONNX, batched continuously "
        "inside NVIDIA Triton.\n\n"
        "`lmaas up` serves; everything below it talks to a running appliance (--url, or LMAAS_URL). "
        "Every listing takes --json."
    ),
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)

SERVE, USE, MANAGE = "Serve and convert", "Use models", "Manage models and servers"

app.command(rich_help_panel=SERVE)(local.up)
app.command(rich_help_panel=SERVE)(export.export)
app.command(rich_help_panel=SERVE)(inspect.inspect)
app.command(rich_help_panel=SERVE)(local.config)
app.command(rich_help_panel=SERVE)(local.version)
app.command(rich_help_panel=USE)(tasks.generate)
app.command(rich_help_panel=USE)(tasks.classify)
app.command(rich_help_panel=USE)(tasks.infer)
app.command(rich_help_panel=USE)(tasks.nlu)
app.add_typer(lifecycle.models, name="models", rich_help_panel=MANAGE)
app.command(rich_help_panel=MANAGE)(lifecycle.deploy)
app.command(rich_help_panel=MANAGE)(lifecycle.undeploy)
app.command(rich_help_panel=MANAGE)(lifecycle.deployments)
app.command("tasks", rich_help_panel=MANAGE)(operations.tasks)
app.command(rich_help_panel=MANAGE)(operations.servers)
app.add_typer(perf.perf, name="perf", rich_help_panel=MANAGE)

if __name__ == "__main__":
    app()
