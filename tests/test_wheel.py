"""The wheel: whole, for this platform, and an appliance where it alone is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.e2e.appliance import foreign_variables, free_port, running
from tests.export.checkpoints import save_lm

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
NOT_COPIED = shutil.ignore_patterns(
    ".*", "__pycache__", "build", "dist", "docs", "*.egg-info", "tests", "var"
)
# What commands need beside the core, as far as they import it first.
MISSING = ("httptools", "numpy", "onnx", "psutil", "pydantic_settings", "tokenizers", "uvloop")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build writes into its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "sources", ignore=NOT_COPIED)
    subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)],
        cwd=folder / "sources", check=True, capture_output=True, timeout=100,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `python` of an environment with the wheel; all other packages are those of the tests."""
    folder = tmp_path_factory.mktemp("a place") / "environment"
    venv.create(folder, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    others = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (packages / "others.pth").write_text("\n".join(sorted(others)))
    return folder / "bin" / "python"


def lmaas(python: Path, folder: Path, *arguments: str) -> str:
    """Run the command in `folder`; returns what it printed."""
    environment = foreign_variables()
    environment.pop("PYTHONPATH", None)
    ended = subprocess.run(
        [str(python), "-m", "lmaas", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_it_is_for_this_platform_and_has_what_serving_needs(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-manylinux_2_17_x86_64.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in (
        "lmaas.py",
        "kernels/operators.so",
        "kernels/preload.so",
        "triton_repo/backends/lmaas/model.py",
    ):
        assert name in names
    for model in (path.parent.name for path in (ROOT / "models").glob("*/config.json")):
        assert f"models/{model}/model.safetensors" in names
        assert f"models/{model}/tokenizer.json" in names
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]


def test_commands_find_what_is_bundled(installed: Path, tmp_path: Path) -> None:
    settings = json.loads(lmaas(installed, tmp_path, "config", "--json"))
    models = Path(settings["LMAAS_MODELS"])
    assert models.is_relative_to(installed.parents[1])
    assert len(list(models.glob("*/model.safetensors"))) == 4
    assert "LMaaS can export it" in lmaas(installed, tmp_path, "inspect", str(models / "mini-nli"))


def test_it_serves_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """A tiny model in place of the bundled ones: it is converted, loaded and asked."""
    save_lm(tmp_path / "bundled" / "tiny")
    folder = tmp_path / "empty"
    folder.mkdir()
    settings = {"models": str(tmp_path / "bundled"), "variants": "fp32"}
    with running(folder / "var", installed, **settings) as appliance:
        body = {"prompt": "a", "max_tokens": 2, "ignore_eos": True}
        assert appliance.post("/v1/generate", body)["usage"]["completion_tokens"] == 2
    assert [path.name for path in folder.iterdir() if path.suffix != ".log"] == ["var"]


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["up"], "serve"),
        (["config"], "serve"),
        (["export", "a", "-o", "b"], "export"),
        (["inspect", "a"], "export"),
        (["perf", "http", "--rate", "1"], "perf"),
    ],
)
def test_a_missing_extra_is_one_line(arguments: list[str], extra: str, tmp_path: Path) -> None:
    script = f"import sys; sys.modules.update(dict.fromkeys({MISSING})); from lmaas import app; app()"
    environment = foreign_variables() | {"PYTHONPATH": str(ROOT), "LMAAS_PORT": str(free_port())}
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"lmaas: `lmaas {arguments[0]}` needs ")
    assert ended.stderr.endswith(f": pip install 'lmaas[{extra}]'\n")
    assert ended.stderr.count("\n") == 1
