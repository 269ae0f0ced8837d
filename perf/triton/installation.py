"""perf_analyzer, installed into a separate folder at its first use.

The wheel of tritonclient 2.50 contains the program; later wheels need a newer glibc, or do not contain it.
The client in that wheel is not the one that the rest of the environment uses. The program links two libraries
that a plain machine lacks: CUDA's runtime, which comes from a wheel too, and libb64, which the system's
package manager installs: `apt-get install libb64-0d`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from perf.errors import AnalyzerError

FOLDER = Path(__file__).resolve().parents[2] / "var" / "perf_analyzer"
WHEELS = ("tritonclient==2.50.0", "nvidia-cuda-runtime-cu12==12.9.79")
PROGRAM = "perf_analyzer"
CUDA_RUNTIME = "libcudart.so.12"
BASE64_LIBRARY = "libb64.so.0d"
BASE64_PACKAGE = "libb64-0d"


@dataclass(frozen=True, slots=True)
class Analyzer:
    """The program in its folder, with CUDA's runtime beside it."""

    folder: Path

    @property
    def program(self) -> Path:
        return self.folder / PROGRAM

    @property
    def environment(self) -> dict[str, str]:
        paths = [str(self.folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        # `http_proxy` is for other machines, and Triton is on this one.
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(paths), "no_grpc_proxy": "127.0.0.1"}


def find_analyzer(say: Callable[[str], None], folder: Path = FOLDER) -> Analyzer:
    """Install it if it is not there yet. Raises AnalyzerError with the command that helps."""
    analyzer = Analyzer(folder)
    if not analyzer.program.exists():
        _require_base64()
        say(f"installing {PROGRAM} into {folder} (once, 40 MB)")
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _unpack_wheels(part)
        _check(Analyzer(part))
        part.rename(folder)
    return analyzer


def _unpack_wheels(folder: Path) -> None:
    wheels = folder / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    ended = _run([*pip, "--only-binary", ":all:", "--dest", str(wheels), *WHEELS], folder)
    if ended.returncode:
        raise AnalyzerError(f"{' and '.join(WHEELS)} cannot be downloaded: {_last_line(ended.stderr)}")
    for wheel in sorted(wheels.iterdir()):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                if (name := PurePosixPath(member.filename).name) in (PROGRAM, CUDA_RUNTIME):
                    (folder / name).write_bytes(archive.read(member))
    shutil.rmtree(wheels)
    (folder / PROGRAM).chmod(0o755)


def _require_base64() -> None:
    try:
        ctypes.CDLL(BASE64_LIBRARY)
    except OSError:
        raise AnalyzerError(f"{PROGRAM} needs {BASE64_LIBRARY}: apt-get install {BASE64_PACKAGE}") from None


def _check(analyzer: Analyzer) -> None:
    ended = subprocess.run(
        [str(analyzer.program), "--version"], env=analyzer.environment, capture_output=True, text=True
    )
    if ended.returncode:
        raise AnalyzerError(f"{PROGRAM} does not run here: {_last_line(ended.stderr)}")


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "no reason was given"
