"""The command line and the environment of a tritonserver: of a façade's own, and of `lmaas triton`."""

from __future__ import annotations

import os
import sysconfig

from api.back.cluster.cleanup import REPOSITORY_OPTION
from api.back.cluster.installation import Installation
from api.back.cluster.resources import gpu_of
from api.back.cluster.server_home import HOST, Ports, ServerHome
from api.back.guard import HIDDEN
from kernels.library import PRELOAD, SWITCH
from runtime.contract import Device
from runtime.log_format import FORMAT_VARIABLE, LEVEL_VARIABLE

STOP_SECONDS = 2.0  # where another program asks it to end: the façade drains its requests, and kills it
INHERITED = ("HOME", "LANG", "TMPDIR", "TZ", SWITCH)
INHERITED_PREFIXES = ("CUDA_", "NVIDIA_", "ORT_")  # which GPU, and how its libraries use it
# What runs a caller's own code, reads and writes files, or maps memory. Triton has no names for callers, only
# a header that opens a group of its routes; by gRPC it puts GRPC_PREFIX before the header's name.
RESTRICTED = "model-repository,shared-memory,trace,logging"
KEY_HEADER = "lmaas-key"
GRPC_PREFIX = "triton-grpc-protocol-"


def triton_command(
    home: ServerHome,
    installation: Installation,
    ports: Ports,
    *,
    host: str = HOST,
    repository: str | None = None,
    stop_seconds: float = STOP_SECONDS,
) -> list[str]:
    """Started in the folder `BackSettings.triton`, with `HIDDEN` where the guard puts the key.

    `repository` is an absolute path without what a shell would interpret; None: the one of `home`. After a
    SIGTERM, requests have `stop_seconds` to end.
    """
    settings = home.settings
    return [
        str(installation.server),
        f"{REPOSITORY_OPTION}{repository or home.relative(home.repository)}",
        f"--backend-directory={home.relative(settings.backends)}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",  # it starts each model twice, and waits a second between
        "--strict-readiness=false",  # else it is unready while any new model loads
        *_http(ports, host),
        *(f"--{service}-address={host}" for service in ("grpc", "metrics")),
        f"--grpc-port={ports.grpc}",
        f"--grpc-restricted-protocol={RESTRICTED}:{KEY_HEADER}={HIDDEN}",
        f"--metrics-port={ports.metrics}",
        f"--backend-config=python,shm-region-prefix-name={home.shared_memory_prefix}",
        f"--exit-timeout-secs={max(1, round(stop_seconds))}",
        f"--log-info={settings.log_level in ('debug', 'info')}".lower(),
        f"--log-warning={settings.log_level != 'error'}".lower(),
    ]


def _http(ports: Ports, host: str) -> list[str]:
    if ports.http is None:
        return ["--allow-http=false"]
    return [
        f"--http-address={host}",
        f"--http-port={ports.http}",
        f"--http-restricted-api={RESTRICTED}:{KEY_HEADER}={HIDDEN}",
    ]


def triton_environment(home: ServerHome, installation: Installation) -> dict[str, str]:
    """Of the caller's environment only what finds programs, GPUs and a place for temporary files."""
    settings = home.settings
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
    scripts = sysconfig.get_path("scripts")
    # `kernels` is a link in the folder that Triton runs in. A full path may have a space, which ends a name.
    preload = {"LD_PRELOAD": f"kernels/{PRELOAD.name}"} if PRELOAD.is_file() else {}
    # The last ones are the caller's: on some machines the GPU's driver is found there alone.
    libraries = [*map(str, installation.libraries), os.environ.get("LD_LIBRARY_PATH", "")]
    # Of several GPUs each server sees one. They have the numbers that `nvidia-smi` shows.
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    gpu = {"CUDA_VISIBLE_DEVICES": gpu_of(home.number)} if settings.engine.device is Device.CUDA else {}
    return {
        **order,
        **inherited,
        **gpu,
        **preload,
        FORMAT_VARIABLE: settings.log_format,
        LEVEL_VARIABLE: settings.log_level,
        "PATH": os.pathsep.join([scripts, "/usr/local/bin", "/usr/bin", "/bin"]),
        "PYTHONUNBUFFERED": "1",
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }
