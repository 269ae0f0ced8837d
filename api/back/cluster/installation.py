"""Where Triton lies on this machine (the wheel `nvidia-pytriton`, or NVIDIA's image), and Python's library.

`assemble_backends` lays out from it what the servers of a home share.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from api.back.settings import BackSettings
from api.errors import ServerFault

ROOT = Path(__file__).resolve().parents[3]  # of the project: what the backend imports lies here
IMPORTED = ("kernels", "runtime")  # what the backend imports, beside libraries
IN_THE_IMAGE = Path("/opt/tritonserver")  # of NVIDIA: its stub is for the Python of that image
STUB_NAME = "triton_python_backend_stub"
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
            python = IN_THE_IMAGE / "backends" / "python"
            return cls(
                server=_existing(IN_THE_IMAGE / "bin" / "tritonserver"),
                python_backend=_existing(python),
                stub=_existing(python / STUB_NAME),
                libraries=tuple(folders),
                libpython=libpython,
            )
        package = Path(spec.submodule_search_locations[0])
        triton = package / "tritonserver"
        return cls(
            server=_existing(triton / "bin" / "tritonserver"),
            python_backend=_existing(triton / "backends" / "python"),
            stub=_existing(triton / "python_backend_stubs" / PYTHON / STUB_NAME),
            libraries=(*folders, package.parent / "nvidia_pytriton.libs"),
            libpython=libpython,
        )

    @property
    def missing_libpython(self) -> str | None:
        """The sentence for a machine without Python's shared library; None where it is there."""
        if self.libpython is not None:
            return None
        return (
            f"Python {PYTHON} has no shared library ({LIBPYTHON}), which Triton's Python backend loads: "
            f"apt-get install libpython{PYTHON} (or dnf install python{PYTHON}-libs)"
        )


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def _find_libpython() -> Path | None:
    """Look beside this Python first: pyenv and standalone builds bring their own, and theirs must win."""
    folders = [sysconfig.get_config_var("LIBDIR"), str(Path(sys.base_prefix) / "lib"), *SYSTEM_FOLDERS]
    candidates = (Path(folder) / LIBPYTHON for folder in folders if folder)
    return next((path for path in candidates if path.exists()), None)


def assemble_backends(settings: BackSettings, installation: Installation, source: Path = BACKENDS) -> None:
    """Lay out the folder that Triton takes its backends from: Python's with its stub, and ours. Blocking."""
    if installation.python_backend is None or installation.stub is None:
        raise ServerFault("Triton is not installed: see the preflight")
    python = settings.backends / "python"
    shutil.rmtree(settings.backends, ignore_errors=True)
    shutil.copytree(installation.python_backend, python, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(installation.stub, python / STUB_NAME)
    shutil.copytree(
        source, settings.backends, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in IMPORTED:  # the stub looks in its working directory; it does not read PYTHONPATH
        link = settings.triton / name
        if link.is_dir() and not link.is_symlink():  # a copy of a home may have followed the link
            shutil.rmtree(link)
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT / name, target_is_directory=True)
