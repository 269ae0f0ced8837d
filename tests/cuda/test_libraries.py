"""The libraries that ONNX Runtime's provider needs, and the GPU that a process sees."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from api.back.cluster.installation import Installation
from api.back.cluster.preflight import Machine, find_problems
from api.back.cluster.server_home import ServerHome
from api.back.cluster.triton_command import triton_environment
from api.back.settings import BackSettings
from runtime.config import EngineSettings
from runtime.contract import Device
from tests.cuda.standin import EMPTY, RUNTIME, StandIn

pytestmark = pytest.mark.cuda

ROOT = Path(__file__).resolve().parents[2]
PROVIDER = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"


def test_the_stand_in_has_every_library_that_the_provider_needs() -> None:
    listed = subprocess.run(["readelf", "-d", PROVIDER], check=True, capture_output=True, text=True).stdout
    needed = re.findall(r"NEEDED.*\[(libcu.*)\]", listed)
    assert sorted(needed) == sorted([RUNTIME, *EMPTY])


CHECK = """
from runtime.cuda.accelerator import Accelerator, AcceleratorError
try:
    Accelerator().check()
except AcceleratorError as error:
    print(error)
"""


def in_a_process(script: str, libraries: Path, **variables: str) -> list[str]:
    """The lines that it prints; the loader finds `libraries`."""
    inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment = {**inherited, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", script]
    ended = subprocess.run(
        command, check=True, env=environment, stdout=subprocess.PIPE, text=True, timeout=60
    )
    return ended.stdout.splitlines()


def test_a_machine_with_all_of_it_lacks_nothing(standin: StandIn) -> None:
    assert in_a_process(CHECK, standin.folder) == []


@pytest.mark.parametrize(
    ("absent", "variables", "line"),
    [
        (
            "libcublasLt.so.13",
            {},
            "of CUDA 13.0 these cannot be loaded: libcublasLt.so.13: pip install 'lmaas[gpu]'",
        ),
        ("libcuda.so.1", {}, "the GPU's driver (libcuda.so.1) cannot be loaded: install it; "),
        (
            "",
            {"STAND_DRIVER": "12080"},
            "the GPU's driver supports CUDA 12.8, and this ONNX Runtime is built",
        ),
        ("", {"CUDA_VISIBLE_DEVICES": ""}, "the driver finds no GPU for this process: see nvidia-smi"),
    ],
)
def test_what_is_missing_is_one_line(
    standin: StandIn, tmp_path: Path, absent: str, variables: dict[str, str], line: str
) -> None:
    for name in {RUNTIME, *EMPTY} - {absent}:
        (tmp_path / name).symlink_to(standin.folder / name)
    (found,) = in_a_process(CHECK, tmp_path, **variables)
    assert found.startswith(line)


OPEN = """
import ctypes, onnxruntime
from runtime.cuda.accelerator import Accelerator
from runtime.cuda.sampling import draw_graph
Accelerator().open(draw_graph(3).SerializeToString(), onnxruntime.SessionOptions())
library = ctypes.CDLL("libcudart.so.13")
library.stand_trace.restype = ctypes.c_char_p
lines = library.stand_trace().decode().splitlines()
print(*sorted({line for line in lines if "properties" in line}))
"""


def test_two_servers_have_a_gpu_each(standin: StandIn, tmp_path: Path) -> None:
    """Each opens its sessions on one of the two GPUs of the machine; a third server would have none."""
    settings = BackSettings(home=tmp_path, servers=2, engine=EngineSettings(device=Device.CUDA))
    for number in range(2):
        passed = triton_environment(ServerHome(settings, number), Installation.find())
        gpu = passed["CUDA_VISIBLE_DEVICES"]
        lines = in_a_process(OPEN, standin.folder, STAND_GPUS="2", CUDA_VISIBLE_DEVICES=gpu)
        assert lines == [f"0 properties {number}"]


def test_servers_beyond_the_gpus_are_a_problem_of_preflight(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("STAND_GPUS", "2")
    machine = dataclasses.replace(Machine.look(), processors=8)
    settings = BackSettings(home=tmp_path, servers=3, engine=EngineSettings(device=Device.CUDA))
    assert find_problems(settings, machine) == [
        "LMAAS_SERVERS is 3, but this process sees 2 GPUs, one for each server: set it to 2 at most"
    ]
    assert find_problems(dataclasses.replace(settings, servers=2), machine) == []
