"""`lmaas triton` and `lmaas health`: a Triton for façades elsewhere, and whether what runs here serves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.command import fail
from cli.local import settings_now

if TYPE_CHECKING:
    from api.config import Settings

HEALTH_SECONDS = 10.0  # for the answer of a façade


def triton(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of its own files; no model lies there.")] = None,
) -> None:
    """Start Triton with the engine for façades elsewhere, and stay until Ctrl-C.

    It needs LMAAS_TRITON_REPOSITORY, a folder that those façades see as well, and LMAAS_TRITON_KEY, the key
    that they have. LMAAS_TRITON_GRPC_PORT and LMAAS_TRITON_METRICS_PORT say where it listens.
    """
    settings = settings_now(host=host, home=None if home is None else str(home))
    from api.back.cluster.foreground_triton import serve_triton
    from api.back.home import OTHERS
    from api.errors import ApiError
    from api.logs import configure_logging

    os.umask(OTHERS)
    configure_logging(settings)
    try:
        status = serve_triton(settings.back, settings.host)
    except (ApiError, OSError) as error:
        fail(str(error))
    raise typer.Exit(status)


def health(
    triton: Annotated[bool, typer.Option("--triton", help="Ask a `lmaas triton`, not a façade.")] = False,
) -> None:
    """Ask what runs here with the same settings whether it serves; status 1 and the reason if not.

    A façade serves when every deployment answered lately; a Triton, when each of its models answers now.
    """
    settings = settings_now()
    if triton:
        from api.back.cluster.foreground_triton import find_fault

        fault = asyncio.run(find_fault(settings.back))
    else:
        fault = _facade_fault(settings)
    if fault is not None:
        fail(fault)
    print("it serves")


def _facade_fault(settings: Settings) -> str | None:
    import httpx

    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    url = f"{'https' if settings.tls_certificate else 'http'}://{host}:{settings.port}/health/serving"
    try:
        # The certificate is for the name that clients use, and not for this address.
        answer = httpx.get(url, timeout=HEALTH_SECONDS, trust_env=False, verify=False)
    except httpx.HTTPError as error:
        return f"{url}: {error or type(error).__name__}"
    return None if answer.is_success else f"{url} says {answer.status_code}: {answer.text.strip()}"
