"""Where Triton is found: the wheel's, else that of NVIDIA's image."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from api.back.cluster import installation as module
from api.back.cluster.installation import STUB_NAME, Installation, assemble_backends
from api.back.cluster.server_home import Ports, ServerHome
from api.back.cluster.triton_command import triton_command, triton_environment
from api.back.settings import BackSettings
from runtime.config import EngineSettings
from runtime.contract import Device


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Triton in an image of NVIDIA's; the wheel is not installed."""
    folder = tmp_path / "tritonserver"
    for name in ("bin/tritonserver", f"backends/python/{STUB_NAME}", "backends/python/libtriton_python.so"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    monkeypatch.setattr(module, "IN_THE_IMAGE", folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return folder


def test_the_image_s_triton_is_found(image: Path, tmp_path: Path) -> None:
    found = Installation.find()
    assert found.server == image / "bin" / "tritonserver"
    settings = BackSettings(home=tmp_path / "home")
    assemble_backends(settings, found)
    assert {path.name for path in settings.backends.iterdir()} == {"python", "lmaas"}
    assert (settings.backends / "python" / STUB_NAME).read_text() == f"backends/python/{STUB_NAME}"


def test_without_any_the_parts_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_THE_IMAGE", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = Installation.find()
    assert (found.server, found.python_backend, found.stub) == (None, None, None)


def test_a_triton_for_others_listens_where_it_is_asked_to(image: Path, tmp_path: Path) -> None:
    home, ports = ServerHome(BackSettings(home=tmp_path)), Ports(8000, 8001, 8002)
    own = triton_command(home, Installation.find(), ports)
    others = triton_command(
        home, Installation.find(), ports, host="0.0.0.0", repository="/repository", stop_seconds=20
    )
    assert {part for part in own if part not in others} == {
        "--model-repository=triton-0/repository",
        "--exit-timeout-secs=2",
        *(f"--{service}-address=127.0.0.1" for service in ("http", "grpc", "metrics")),
    }
    assert "--model-repository=/repository" in others


def test_the_libraries_of_a_gpu_s_driver_are_found(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "LD_LIBRARY_PATH": "/usr/local/nvidia/lib64",
        "CUDA_VISIBLE_DEVICES": "1",
        "ORT_ENABLE_XQA": "0",
        "LMAAS_TRITON_KEY": "a",
    }.items():
        monkeypatch.setenv(name, value)
    passed = triton_environment(ServerHome(BackSettings(home=tmp_path)), Installation.find())
    assert passed["LD_LIBRARY_PATH"].split(":")[-1] == "/usr/local/nvidia/lib64"
    assert (passed["CUDA_VISIBLE_DEVICES"], passed["ORT_ENABLE_XQA"]) == ("1", "0")
    assert "LMAAS_TRITON_KEY" not in passed


@pytest.mark.parametrize(("chosen", "gpus"), [("", ["0", "1"]), ("3,GPU-8e1f", ["3", "GPU-8e1f"])])
def test_each_server_sees_one_gpu(
    tmp_path: Path, chosen: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    settings = BackSettings(home=tmp_path, servers=2, engine=EngineSettings(device=Device.CUDA))
    for number, gpu in enumerate(gpus):
        passed = triton_environment(ServerHome(settings, number), Installation.find())
        assert passed["CUDA_VISIBLE_DEVICES"] == gpu
        assert passed["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"  # the numbers are those of nvidia-smi
