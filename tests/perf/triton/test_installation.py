"""perf_analyzer is unpacked from two wheels, or an error names the command that helps."""

from __future__ import annotations

import ctypes
import subprocess
import zipfile
from pathlib import Path

import pytest

from perf.errors import AnalyzerError
from perf.triton import installation
from perf.triton.installation import CUDA_RUNTIME, PROGRAM, find_analyzer

VERSION = '#!/bin/sh\n[ -f "$(dirname "$0")/libcudart.so.12" ] && [ "$1" = --version ]\n'


def pip(
    command: list[str], folder: Path, *, fails: bool = False, program: str = VERSION
) -> subprocess.CompletedProcess[str]:
    """As pip behaves: two wheels in the folder named, or an error."""
    if fails:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: first\nERROR: no network\n")
    wheels = Path(command[command.index("--dest") + 1])
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tritonclient.whl", "w") as wheel:
        wheel.writestr(f"tritonclient-2.50.0.data/data/bin/{PROGRAM}", program)
        wheel.writestr("tritonclient/__init__.py", "")
    with zipfile.ZipFile(wheels / "cuda.whl", "w") as wheel:
        wheel.writestr(f"nvidia/cuda_runtime/lib/{CUDA_RUNTIME}", "cuda")
    return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has the library."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(installation, "_run", pip)


def test_it_is_put_together_once(tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "var" / "perf_analyzer"
    for _ in range(2):
        analyzer = find_analyzer(said.append, folder)
    assert len(said) == 1
    assert sorted(path.name for path in folder.iterdir()) == [CUDA_RUNTIME, PROGRAM]
    assert analyzer.environment["LD_LIBRARY_PATH"].split(":")[0] == str(folder)
    assert not (tmp_path / "var" / "perf_analyzer.part").exists()


def test_wheels_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_run", lambda command, folder: pip(command, folder, fails=True))
    with pytest.raises(AnalyzerError, match=r"tritonclient==2\.50\.0 and .*: ERROR: no network"):
        find_analyzer(lambda line: None, tmp_path / "analyzer")
    assert not (tmp_path / "analyzer").exists()


def test_without_the_library_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(AnalyzerError, match="apt-get install libb64-0d"):
        find_analyzer(lambda line: None, tmp_path / "analyzer")
    assert not (tmp_path / "analyzer").exists()


def test_a_program_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "#!/bin/sh\necho 'version GLIBC_2.99 not found' >&2; exit 1\n"
    monkeypatch.setattr(installation, "_run", lambda command, folder: pip(command, folder, program=broken))
    with pytest.raises(AnalyzerError, match=r"does not run here: version GLIBC_2\.99"):
        find_analyzer(lambda line: None, tmp_path / "analyzer")
    assert not (tmp_path / "analyzer").exists()
