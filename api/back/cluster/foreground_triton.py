"""One Triton in the foreground, for façades elsewhere: `lmaas triton`, which the image of Triton runs.

Façades lay models out in its repository and load them, as `RemoteTriton` does. So both must see that folder,
run as one user, and have one key.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

from api.back.cluster.cleanup import end_leftovers, kill_group, remove_shared_memory
from api.back.cluster.installation import Installation, assemble_backends
from api.back.cluster.preflight import find_problems
from api.back.cluster.server_home import HOST, Ports, ServerHome
from api.back.cluster.server_log import logger as server_logger
from api.back.cluster.server_log import record_of
from api.back.cluster.triton_client import TritonClient
from api.back.cluster.triton_command import triton_command, triton_environment
from api.back.guard import SECRET, guarded
from api.back.home import only_user
from api.back.settings import BackSettings
from api.errors import ApiError, Overloaded, ServerFault
from runtime.contract import DRAIN_VARIABLE
from runtime.manifest import Manifest

PLAIN_PATH = re.compile(r"/[\w./@+-]*", re.ASCII)  # without what a shell would interpret
HEALTH_SECONDS = 15.0  # for an answer of Triton, and of a model

logger = logging.getLogger("lmaas")


def serve_triton(settings: BackSettings, host: str) -> int:
    """Serve until Ctrl-C or SIGTERM: 0; else the status with which Triton ended.

    Requests have `drain_seconds` to end. Raises ServerFault where it cannot start, with all that is missing.
    """
    repository = Path(settings.triton_repository).absolute()
    problems = [
        *_missing(settings, repository),
        *find_problems(dataclasses.replace(settings, servers=1, facades=1)),
    ]
    if problems:
        raise ServerFault("; ".join(problems))
    installation = Installation.find()
    with only_user(settings):
        end_leftovers(settings)
        assemble_backends(settings, installation)
        repository.mkdir(parents=True, exist_ok=True)
        return _run(ServerHome(settings), installation, host, repository)


def _missing(settings: BackSettings, repository: Path) -> list[str]:
    problems = []
    if not settings.triton_key:
        problems.append("LMAAS_TRITON_KEY is empty: set it to the key that the façades have")
    if not settings.triton_repository:
        problems.append(
            "LMAAS_TRITON_REPOSITORY is empty: set it to the folder that façades lay models out in"
        )
    elif not PLAIN_PATH.fullmatch(str(repository)):
        problems.append(
            f"LMAAS_TRITON_REPOSITORY: the path {str(repository)!a} may have letters, digits and ._@+-/ alone"
        )
    return problems


def _run(home: ServerHome, installation: Installation, host: str, repository: Path) -> int:
    settings, ports = home.settings, Ports.choose(home)
    command = triton_command(
        home,
        installation,
        ports,
        host=host,
        repository=str(repository),
        stop_seconds=settings.drain_seconds,
    )
    environment = {
        **triton_environment(home, installation),
        DRAIN_VARIABLE: str(settings.drain_seconds),
        SECRET: settings.triton_key,
    }
    lines = subprocess.PIPE if settings.log_format == "json" else None
    logger.info("Triton serves models of %s at grpc://%s:%d", repository, host, ports.grpc)
    stopped = False

    with subprocess.Popen(
        guarded(command),
        cwd=settings.triton,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=lines,
        stderr=None if lines is None else subprocess.STDOUT,
        start_new_session=True,
    ) as process:

        def stop(*_: Any) -> None:
            nonlocal stopped
            stopped = True
            process.terminate()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        try:
            for line in process.stdout or ():
                server_logger.handle(record_of(line.decode(errors="replace").rstrip(), home.name))
            status = process.wait()
        finally:
            kill_group(process.pid)
            remove_shared_memory(home.shared_memory_prefix)
    return 0 if stopped else status


async def find_fault(settings: BackSettings) -> str | None:
    """Why the `lmaas triton` of these settings, on this machine, does not serve.

    None: it lives, and every model that it has loaded answered an inference, or is full.
    """
    client = TritonClient(f"{HOST}:{settings.triton_grpc_port}", settings.triton_key)
    try:
        if not await client.live(HEALTH_SECONDS, wait_for_ready=False):
            return f"no Triton answers at {client.address}"
        probes = [
            _probe(client, Path(settings.triton_repository), model, version)
            for model, version in await client.loaded(HEALTH_SECONDS)
        ]
        return "; ".join(filter(None, await asyncio.gather(*probes))) or None
    except ApiError as error:
        return error.detail
    finally:
        await client.close()


async def _probe(client: TritonClient, repository: Path, model: str, version: int) -> str | None:
    folder = repository / model / str(version)
    try:
        await asyncio.wait_for(client.probe((model, version), Manifest.load(folder)), HEALTH_SECONDS)
    except (Overloaded, FileNotFoundError):  # it is full, or a façade has just removed it
        return None
    except asyncio.TimeoutError:
        return f"{model}/{version}: no answer within {HEALTH_SECONDS:g} s"
    except ApiError as error:
        return f"{model}/{version}: {error.detail}"
    return None
