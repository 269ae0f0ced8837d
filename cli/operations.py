"""`lmaas tasks` and `lmaas servers`: what a running appliance is doing."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from cli.command import AsJson, Url
from cli.show import plain, print_facts, print_json, print_listing
from client.http import DEFAULT_URL, Client


def tasks(
    task_id: Annotated[str | None, typer.Argument(help="Show this task alone.")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the task named.")] = False,
    state: Annotated[str | None, typer.Option(help="Only tasks in this state.")] = None,
    limit: Annotated[int, typer.Option(help="The largest number to list, newest first.", min=1)] = 20,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List tasks, show one, or cancel one."""
    with Client(url) as client:
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


def capacity(as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Say for each deployment what is asked of it, what a replica gives, and what is missing."""
    with Client(url) as client:
        answer = client.call("GET", "/v1/capacity")
    if as_json or not answer["data"]:
        print_listing(answer, as_json, (), lambda item: (), "no deployments")
        return
    for each in answer["data"]:
        print(
            plain(f"{each['model']}/{each['version']}: {each['replicas']} replicas, {each['wanted']} wanted")
        )
        gives = "not known" if each["capacity"] is None else f"{each['capacity']:.1f} requests/s"
        used = "" if each["utilisation"] is None else f", {each['utilisation']:.0%} of it used"
        bounds = each["autoscale"]
        print_facts(
            [
                ("asked", f"{each['arrival_rate']:.1f} requests/s, {each['waiting']} waiting"),
                ("a replica gives", f"{gives} ({each['basis']}){used}"),
                ("missing", f"{each['missing']} replicas; the servers hold {each['possible']}"),
                ("scaled", f"from {bounds['min']} to {bounds['max']}" if bounds else "by hand"),
                ("because", each["reason"]),
            ]
        )


def servers(as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """List the model servers: state, load, what each holds."""
    with Client(url) as client:
        answer = client.call("GET", "/v1/servers")
    print_listing(
        answer,
        as_json,
        ("server", "state", "kernels", "outstanding", "restarts", "models"),
        lambda server: (
            server["name"],
            server["state"],
            server["kernels"] or "",
            server["outstanding"],
            server["restarts"],
            ", ".join(server["models"]),
        ),
        "no servers",
    )
