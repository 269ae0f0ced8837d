"""What the shell offers for a name that is being typed: models and deployments of the running appliance."""

from __future__ import annotations

import os
from collections.abc import Iterable

import typer

from client.errors import ClientError
from client.http import DEFAULT_URL, Client

SECONDS = 1.0  # a prompt waits for it; without an answer nothing is offered


def _client(context: typer.Context) -> Client:
    url = context.params.get("url") or os.environ.get("LMAAS_URL") or DEFAULT_URL
    return Client(url, key=os.environ.get("LMAAS_API_KEY"), timeout=SECONDS)


def model_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """The models whose names begin so."""
    try:
        with _client(ctx) as client:
            return _beginning(incomplete, (model["id"] for model in client.models()))
    except ClientError:
        return []


def deployed_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """The ids of deployments, and the models that they serve."""
    try:
        with _client(ctx) as client:
            deployments = client.deployments()
    except ClientError:
        return []
    names = [each["model"] for each in deployments] + [each["id"] for each in deployments]
    return _beginning(incomplete, names)


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
