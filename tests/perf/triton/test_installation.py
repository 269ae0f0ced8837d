"""perf_analyzer is put together from two wheels and a library, or the command that helps is told."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from perf.errors import AnalyzerError
from perf.triton import installation
from perf.triton.installation import BASE64_LIBRARY, CUDA_RUNTIME, PROGRAM, find_analyzer

VERSION = '#!/bin/sh\n[ -f "$(dirname "$0")/libcudart.so.12" ] && [ "$1" = --version ]\n'


def played(
    command: list[str], folder: Path, *, fails: str = "", program: str = VERSION
) -> subprocess.CompletedProcess[str]:
    """pip, apt-get and dpkg as they behave; the command whose name is `fails` does nothing."""
    name = "pip" if "pip" in command else command[0]
    if name == fails:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: first\nERROR: no network\n")
    if name == "pip":
        wheels = Path(command[command.index("--dest") + 1])
        wheels.mkdir()
        with zipfile.ZipFile(wheels / "tritonclient.whl", "w") as wheel:
            wheel.writestr(f"tritonclient-2.50.0.data/data/bin/{PROGRAM}", program)
            wheel.writestr("tritonclient/__init__.py", "")
        with zipfile.ZipFile(wheels / "cuda.whl", "w") as wheel:
            wheel.writestr(f"nvidia/cuda_runtime/lib/{CUDA_RUNTIME}", "cuda")
    elif name == "apt-get":
        (folder / "libb64-0d.deb").touch()
    else:
        library = folder / "unpacked" / "usr" / "lib" / BASE64_LIBRARY
        library.parent.mkdir(parents=True)
        library.write_text("base64")
    return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture(autouse=True)
def machine_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(installation, "_run", played)


def test_it_is_put_together_once(tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "var" / "perf_analyzer"
    for _ in range(2):
        analyzer = find_analyzer(said.append, folder)
    assert len(said) == 1
    assert sorted(path.name for path in folder.iterdir()) == [BASE64_LIBRARY, CUDA_RUNTIME, PROGRAM]
    assert analyzer.environment["LD_LIBRARY_PATH"].split(":")[0] == str(folder)
    assert not (tmp_path / "var" / "perf_analyzer.part").exists()


@pytest.mark.parametrize(
    ("fails", "told"),
    [
        ("pip", "tritonclient==2.50.0 and .* cannot be had: ERROR: no network"),
        ("apt-get", "apt-get install libb64-0d"),
        ("dpkg", "apt-get install libb64-0d"),
    ],
)
def test_what_helps_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, told: str) -> None:
    monkeypatch.setattr(installation, "_run", lambda command, folder: played(command, folder, fails=fails))
    with pytest.raises(AnalyzerError, match=told):
        find_analyzer(lambda line: None, tmp_path / "analyzer")
    assert not (tmp_path / "analyzer").exists()


def test_a_system_without_debian_s_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(AnalyzerError, match="apt-get install libb64-0d"):
        find_analyzer(lambda line: None, tmp_path / "analyzer")


def test_a_program_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "#!/bin/sh\necho 'version GLIBC_2.99 not found' >&2; exit 1\n"
    monkeypatch.setattr(installation, "_run", lambda command, folder: played(command, folder, program=broken))
    with pytest.raises(AnalyzerError, match=r"does not run here: version GLIBC_2\.99"):
        find_analyzer(lambda line: None, tmp_path / "analyzer")
    assert not (tmp_path / "analyzer").exists()
