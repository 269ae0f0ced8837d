"""`lmaas tasks` and `lmaas servers`: what a running appliance is doing."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from cli.client import DEFAULT_URL, AsJson, Url, connect
from cli.show import print_json, print_listing


def tasks(
    task_id: Annotated[str | None, typer.Argument(help="Show this task alone.")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the task named.")] = False,
    state: Annotated[str | None, typer.Option(help="Only tasks in this state.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.", min=1)] = 20,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List tasks, show one, or cancel one."""
    with connect(url) as client:
        if task_id:
            method = "DELETE" if cancel else "GET"
            print_json(client.call(method, f"/v1/tasks/{quote(task_id, safe='')}"))
            return
        if cancel:
            raise typer.BadParameter("name the task to cancel", param_hint="--cancel")
        parameters = {"limit": limit} | ({"state": state} if state else {})
        answer = client.call("GET", "/v1/tasks", params=parameters)
    print_listing(
        answer,
        as_json,
        ("id", "type", "state", "model", "created"),
        lambda task: (task["id"], task["type"], task["state"], task["model"], task["created"]),
        "no tasks",
    )


def servers(as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """List the model servers: state, load, what each holds."""
    with connect(url) as client:
        answer = client.call("GET", "/v1/servers")
    print_listing(
        answer,
        as_json,
        ("server", "state", "outstanding", "restarts", "models"),
        lambda server: (
            server["name"],
            server["state"],
            server["outstanding"],
            server["restarts"],
            ", ".join(server["models"]),
        ),
        "no servers",
    )
