"""Dockerfiles, .dockerignore and compose.yaml: what can be checked without building anything."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.config import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ("Dockerfile.api", "Dockerfile.train", "Dockerfile.triton")
FINAL = (*DOCKERFILES, "Dockerfile.triton:cpu")  # with the stage, where it is not the last one
SERVING = tuple(name for name in FINAL if "train" not in name)
SETTINGS = {f"LMAAS_{name.upper()}" for name in Settings.model_fields}
PROJECT = (ROOT / "pyproject.toml").read_text()
VERSION = re.findall(r'^version = "(.*)"$', PROJECT, re.MULTILINE)[0]


@dataclass
class Stage:
    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for instruction, rest in self.instructions if instruction == word]

    def one(self, word: str) -> str:
        (rest,) = self.all(word)
        return rest

    def environment(self) -> dict[str, str]:
        parts = [part for rest in self.all("ENV") for part in shlex.split(rest)]
        return {name: value for name, _, value in (part.partition("=") for part in parts)}


def stages(dockerfile: str) -> list[Stage]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / dockerfile).read_text(), flags=re.MULTILINE)
    found: list[Stage] = []
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base, name))
        elif word and found:
            found[-1].instructions.append((word, rest.strip()))
    return found


def final(image: str) -> Stage:
    dockerfile, _, name = image.partition(":")
    found = stages(dockerfile)
    return next(stage for stage in found if stage.name == name) if name else found[-1]


def listed(key: str) -> list[str]:
    """The texts of a key of pyproject.toml, which stands in one line and is there once."""
    (line,) = re.findall(rf"^{key} = (.*)$", PROJECT, re.MULTILINE)
    return re.findall(r'"([^"]*)"', line)


def default_arguments(dockerfile: str) -> dict[str, str]:
    return dict(re.findall(r"^ARG (\w+)=(\S+)$", (ROOT / dockerfile).read_text(), re.MULTILINE))


def constraints() -> dict[str, set[str]]:
    """The versions of each package; a package may have several, for different Pythons."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition(";")[0].strip().partition("==")
            found.setdefault(name.lower(), set()).add(version)
    return found


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_hadolint_finds_nothing(dockerfile: str) -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program is not None
    ended = subprocess.run([program, dockerfile], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.parametrize("image", FINAL)
def test_an_image_runs_as_a_user_without_rights_under_an_init(image: str) -> None:
    stage = final(image)
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", stage.one("USER"))
    assert stage.one("STOPSIGNAL") == "SIGTERM"
    assert stage.one("ENTRYPOINT").startswith('["tini", "--"')
    assert all(
        folder in stage.one("VOLUME") for folder in (stage.one("WORKDIR"), stage.environment()["HOME"])
    )
    labels = dict(part.split("=", 1) for part in shlex.split(stage.one("LABEL")))
    assert labels["org.opencontainers.image.version"] == VERSION
    assert {"title", "description", "revision"} <= {name.rpartition(".")[2] for name in labels}


@pytest.mark.parametrize("image", FINAL)
def test_nothing_is_built_in_the_final_stage(image: str) -> None:
    stage = final(image)
    assert not re.search(r"pip|venv|gcc|build-essential|git", " ".join(stage.all("RUN")))
    (packages,) = [rest for rest in stage.all("COPY") if "/opt/lmaas" in rest]
    assert packages.startswith("--from=")


@pytest.mark.parametrize("image", SERVING)
def test_its_health_is_what_an_inference_says(image: str) -> None:
    command = re.fullmatch(r"--interval=\S+ --timeout=\S+ .*CMD (\[.*\])", final(image).one("HEALTHCHECK"))
    assert command is not None
    asked = ["lmaas", "health", *(["--triton"] if "triton" in image else [])]
    assert yaml.safe_load(command[1]) == asked


def test_facade_and_triton_are_one_user() -> None:
    """What a façade lays out, Triton alone may read."""
    assert len({final(image).one("USER") for image in SERVING}) == 1
    assert len({final(image).environment()["LMAAS_HOME"] for image in SERVING}) == 1  # of TensorRT's cache


@pytest.mark.parametrize("image", SERVING)
def test_its_variables_are_settings(image: str) -> None:
    environment = final(image).environment()
    assert {name for name in environment if name.startswith("LMAAS_")} <= SETTINGS
    assert environment["PATH"].startswith("/opt/lmaas/bin:")


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_every_package_has_the_version_of_the_constraints(dockerfile: str) -> None:
    pinned = constraints()
    for stage in stages(dockerfile):
        for command in re.split(r"&&", " ".join(stage.all("RUN"))):
            if "pip" not in command or not re.search(r" (install|wheel) ", command):
                continue
            if "apt-get" in command:
                continue
            inherited = next((each for each in stages(dockerfile) if each.name == stage.base), stage)
            constraint = {**inherited.environment(), **stage.environment()}["PIP_CONSTRAINT"]
            assert constraint == "/src/constraints.txt"
            words = shlex.split(re.split(r" (?:install|wheel) ", command)[1])
            for word in words:
                name, _, version = word.partition("==")
                if re.fullmatch(r"[a-z][\w-]*", name):
                    assert pinned[name]
                    assert not version or pinned[name] == {version}


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_what_is_installed_of_the_project_is_one_of_its_extras(dockerfile: str) -> None:
    commands = " ".join(command for stage in stages(dockerfile) for command in stage.all("RUN"))
    extras = {extra for found in re.findall(r"\[([a-z,]+)\]", commands) for extra in found.split(",")}
    assert extras
    assert [extra for extra in extras if not re.search(rf"^{extra} = \[", PROJECT, re.MULTILINE)] == []


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_bases_are_pinned(dockerfile: str) -> None:
    names = {stage.name for stage in stages(dockerfile)}
    for stage in stages(dockerfile):
        if stage.base not in names:
            base = default_arguments(dockerfile)[stage.base.strip("${}")]
            assert re.fullmatch(r"[a-z.]+/[a-z/-]+:\d[\w.-]*", base)


def test_all_sources_are_sent_to_the_build() -> None:
    """.dockerignore names what is sent; setuptools looks for packages in it."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    assert [name for name in sent if not (ROOT / name).exists()] == []
    packages = {pattern.rstrip("*") for pattern in listed("include")}
    modules = {f"{name}.py" for name in listed("py-modules")}
    assert packages | modules | {"constraints.txt", "pyproject.toml", "setup.py", "README.md"} <= sent
    copied = {
        source
        for dockerfile in DOCKERFILES
        for stage in stages(dockerfile)
        for rest in stage.all("COPY")
        if "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert copied <= sent | {"."}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return read


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_a_profile_is_a_facade_and_its_triton(compose: dict[str, Any], profile: str) -> None:
    services = compose["services"]
    chosen = {name: each for name, each in services.items() if profile in each.get("profiles", [profile])}
    assert "postgres" in chosen
    (facade,) = [each for each in chosen.values() if each["image"] == f"lmaas-api:{VERSION}"]
    (name,) = [name for name in chosen if name.startswith("triton-")]
    triton = chosen[name]
    assert set(facade["depends_on"]) == {"postgres", name}
    assert facade["environment"]["LMAAS_TRITON_URLS"] == "grpc://triton:8001"
    assert triton["image"] == f"lmaas-triton:{VERSION}" + ("-cpu" if profile == "cpu" else "")
    assert triton["networks"]["default"]["aliases"] == ["triton"]
    assert facade["environment"]["LMAAS_TRITON_KEY"] == triton["environment"]["LMAAS_TRITON_KEY"]
    assert "repository:/repository" in facade["volumes"]
    assert "repository:/repository" in triton["volumes"]
    assert facade["environment"]["LMAAS_TRITON_REPOSITORY"] == "/repository"
    assert (facade["environment"].get("LMAAS_DEVICE") == "cuda") is (profile == "gpu")


def test_compose_agrees_with_the_images(compose: dict[str, Any]) -> None:
    volumes = {
        volume.partition(":")[0] for each in compose["services"].values() for volume in each["volumes"]
    }
    assert volumes == set(compose["volumes"])
    for name, service in compose["services"].items():
        variables = {each for each in service["environment"] if each.startswith("LMAAS_")}
        assert variables <= SETTINGS
        if name == "postgres":
            assert re.fullmatch(r"docker\.io/library/postgres:\d[\w.-]+", service["image"])
            continue
        build = service["build"]
        stage = final(":".join(filter(None, (build["dockerfile"], build.get("target")))))
        for volume in service["volumes"]:
            assert volume.partition(":")[2] in stage.one("VOLUME")
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"]
        grace, drain = service["stop_grace_period"], service["environment"]["LMAAS_DRAIN_SECONDS"]
        assert int(grace.removesuffix("s")) > int(drain) + 2
