"""What a machine can lack, each in one line with its remedy."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from api.back.cluster.installation import Installation
from api.back.cluster.preflight import MIB, Machine, find_problems
from api.back.settings import BackSettings
from kernels.library import SWITCH, missing
from runtime.config import EngineSettings
from runtime.contract import Device
from tests.runtime.cuda.accelerated import HAS_GPU


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine.look()


def lacking(machine: Machine, **parts: Any) -> Machine:
    return dataclasses.replace(machine, installation=dataclasses.replace(machine.installation, **parts))


def test_this_machine_lacks_nothing(tmp_path: Path) -> None:
    assert find_problems(BackSettings(home=tmp_path)) == []


def test_instructions_that_the_processor_lacks(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "avx9")
    missing.cache_clear()
    try:
        (problem,) = find_problems(BackSettings(home=tmp_path), machine)
    finally:
        missing.cache_clear()
    assert problem.startswith("LMAAS_KERNELS is avx9: it can be auto, off, ")


@pytest.mark.skipif(HAS_GPU, reason="this ONNX Runtime has the provider")
def test_a_gpu_needs_its_provider(tmp_path: Path) -> None:
    settings = BackSettings(home=tmp_path, engine=EngineSettings(device=Device.CUDA))
    (problem,) = find_problems(settings)
    lacking = "LMAAS_DEVICE is cuda, but this ONNX Runtime has no CUDAExecutionProvider: .*'lmaas\\[gpu\\]'"
    assert re.match(lacking, problem)


@pytest.mark.parametrize(("system", "processor"), [("Darwin", "arm64"), ("Linux", "aarch64")])
def test_another_system_is_the_only_problem(
    machine: Machine, tmp_path: Path, system: str, processor: str
) -> None:
    other = dataclasses.replace(machine, system=system, processor=processor, memory=0)
    (problem,) = find_problems(BackSettings(home=tmp_path), other)
    assert f"{system} on {processor}" in problem
    assert "Linux on x86_64" in problem


def test_missing_parts_name_their_remedy(machine: Machine, tmp_path: Path) -> None:
    settings = BackSettings(home=tmp_path)
    bare = dataclasses.replace(machine, installation=Installation(None, None, None, (), None))
    assert find_problems(settings, bare) == [
        "the package nvidia-pytriton, which carries Triton, is not installed: pip install 'lmaas[serve]'"
    ]
    (problem,) = find_problems(settings, lacking(machine, libpython=None))
    assert f"apt-get install libpython{machine.python}" in problem
    (problem,) = find_problems(settings, dataclasses.replace(lacking(machine, stub=None), python="3.14"))
    assert problem.startswith("Triton has no Python backend for Python 3.14: use Python 3.10")


def test_what_the_loader_cannot_search_is_named(machine: Machine, tmp_path: Path) -> None:
    split = (tmp_path / "a;b", tmp_path / "my models")
    (problem,) = find_problems(BackSettings(home=tmp_path), lacking(machine, libraries=split))
    assert problem.startswith(f"the loader cannot search {tmp_path}/a;b, for a : or ; in its name")


def test_a_long_path_is_refused_with_both_figures(machine: Machine, tmp_path: Path) -> None:
    home = tmp_path / ("y" * 200) / ("z" * 250)
    (problem,) = find_problems(BackSettings(home=home), machine)
    length = len(os.fsencode(home))
    assert problem.startswith(f"the path of the state's folder has {length} bytes, at most 400 are possible")
    assert "LMAAS_HOME" in problem


def test_a_path_beyond_ascii_is_refused(machine: Machine, tmp_path: Path) -> None:
    (problem,) = find_problems(BackSettings(home=tmp_path / "häme"), machine)
    assert "xe4me', has characters beyond ASCII" in problem
    assert "LMAAS_HOME" in problem


def test_scarce_memory_says_both_figures(machine: Machine, tmp_path: Path) -> None:
    poor = dataclasses.replace(machine, memory=300 * MIB, shared_memory=2 * MIB)
    memory, shared = find_problems(BackSettings(home=tmp_path), poor)
    assert memory.startswith("300 MiB of memory are free, at least 1024 MiB are needed")
    assert shared.startswith("/dev/shm has 2 MiB free")
    assert "--shm-size" in shared
    (memory,) = find_problems(BackSettings(home=tmp_path, servers=0), poor)  # its Tritons run elsewhere
    assert memory.startswith("300 MiB of memory are free")


def test_each_server_needs_a_processor_and_memory(machine: Machine, tmp_path: Path) -> None:
    settings = BackSettings(home=tmp_path, servers=3)
    pair = dataclasses.replace(machine, processors=2, memory=1500 * MIB)
    processors, memory = find_problems(settings, pair)
    assert processors == (
        "LMAAS_SERVERS is 3, but this process may use 2 processors, one for each server: set it to 2 at most"
    )
    assert memory.startswith("1500 MiB of memory are free, at least 1536 MiB are needed")
    assert memory.endswith("or lower LMAAS_SERVERS")
    assert find_problems(settings, dataclasses.replace(machine, processors=3)) == []


def test_the_servers_of_all_facades_count(machine: Machine, tmp_path: Path) -> None:
    settings = BackSettings(home=tmp_path, servers=2, facades=2)
    (problem,) = find_problems(settings, dataclasses.replace(machine, processors=3))
    assert problem == (
        "LMAAS_SERVERS is 2 for each of 2 façades (LMAAS_FACADES), but this process may use 3 processors, "
        "one for each server: set it to 1 at most"
    )
    (problem,) = find_problems(settings, dataclasses.replace(machine, processors=1))
    assert problem.endswith("one for each server: lower LMAAS_FACADES")
    (problem,) = find_problems(settings, dataclasses.replace(machine, processors=4, memory=1700 * MIB))
    assert problem.startswith("1700 MiB of memory are free, at least 1792 MiB are needed")
    assert problem.endswith("or lower LMAAS_SERVERS, or lower LMAAS_FACADES")


def test_the_ports_of_every_server_must_be_free_and_apart(machine: Machine, tmp_path: Path) -> None:
    many = dataclasses.replace(machine, processors=2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (problem,) = find_problems(BackSettings(home=tmp_path, servers=2, triton_grpc_port=port - 10), many)
    assert problem.startswith(f"port {port} is taken: set LMAAS_TRITON_GRPC_PORT")
    (problem,) = find_problems(BackSettings(home=tmp_path, servers=2, triton_grpc_port=65530), many)
    assert problem == "LMAAS_TRITON_GRPC_PORT leads to port 65540 with 2 servers; the last port is 65535"
    same = BackSettings(home=tmp_path, servers=2, triton_grpc_port=4001, triton_metrics_port=4011)
    assert any("4011 for two servers" in problem for problem in find_problems(same, many))


def test_a_taken_port_names_its_setting(machine: Machine, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (problem,) = find_problems(BackSettings(home=tmp_path, triton_metrics_port=port), machine)
    assert problem == (
        f"port {port} is taken: set LMAAS_TRITON_METRICS_PORT to a free one, or to 0 to have one chosen"
    )


def test_a_home_that_cannot_be_written_is_named(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (problem,) = find_problems(BackSettings(home=tmp_path / "file" / "home"), machine)
    assert "set LMAAS_HOME" in problem
