"""Where Triton lies on this machine: the wheel `nvidia-pytriton`, and Python's own shared library."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]  # of the project: what the backend imports lies here
BACKENDS = ROOT / "triton_repo" / "backends"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBPYTHON = f"libpython{PYTHON}.so.1.0"  # what the stub of this Python asks the loader for
SYSTEM_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/lib64",
    "/usr/lib",
    "/lib",
)


@dataclass(frozen=True, slots=True)
class Installation:
    """None stands for what is missing; `preflight` says how to get it."""

    server: Path | None  # the program `tritonserver`
    python_backend: Path | None  # folder of Triton's Python backend
    stub: Path | None  # the program that runs a Python model, for this version of Python
    libraries: tuple[Path, ...]  # folders that the loader must search
    libpython: Path | None  # the shared library of this Python

    @classmethod
    def find(cls) -> Installation:
        spec = importlib.util.find_spec("pytriton")
        libpython = _find_libpython()
        folders = [libpython.parent] if libpython and str(libpython.parent) not in SYSTEM_FOLDERS else []
        if spec is None or not spec.submodule_search_locations:
            return cls(None, None, None, tuple(folders), libpython)
        package = Path(spec.submodule_search_locations[0])
        triton = package / "tritonserver"
        return cls(
            server=_existing(triton / "bin" / "tritonserver"),
            python_backend=_existing(triton / "backends" / "python"),
            stub=_existing(triton / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"),
            libraries=(*folders, package.parent / "nvidia_pytriton.libs"),
            libpython=libpython,
        )


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def _find_libpython() -> Path | None:
    """Look beside this Python first: pyenv and standalone builds bring their own, and theirs must win."""
    folders = [sysconfig.get_config_var("LIBDIR"), str(Path(sys.base_prefix) / "lib"), *SYSTEM_FOLDERS]
    candidates = (Path(folder) / LIBPYTHON for folder in folders if folder)
    return next((path for path in candidates if path.exists()), None)
