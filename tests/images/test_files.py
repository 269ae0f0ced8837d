"""Dockerfiles and .dockerignore: what can be checked without building anything."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

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


def source_of(image: str, place: str) -> Stage:
    """The stage that the final one copies a folder from."""
    (copied,) = [rest.split() for rest in final(image).all("COPY") if rest.split()[1] == place]
    name = copied[0].removeprefix("--from=")
    return next(stage for stage in stages(image.partition(":")[0]) if stage.name == name)


def runs(stage: Stage) -> list[str]:
    """The commands that a stage runs."""
    return [command.strip() for rest in stage.all("RUN") for command in rest.split("&&")]


def inherited_environment(dockerfile: str, stage: Stage) -> dict[str, str]:
    """A stage's variables, with those of the stages that it starts with."""
    below = [each for each in stages(dockerfile) if each.name == stage.base]
    return {**(inherited_environment(dockerfile, below[0]) if below else {}), **stage.environment()}


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


@pytest.mark.parametrize("image", FINAL)
def test_its_labels_are_last_and_name_what_it_is(image: str) -> None:
    """A new revision then changes no other layer."""
    stage = final(image)
    word, text = stage.instructions[-1]
    assert word == "LABEL"
    labels = dict(part.split("=", 1) for part in shlex.split(text))
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}version"] == VERSION
    assert labels[f"{prefix}revision"] == "${REVISION}"
    assert labels[f"{prefix}base.name"] == ("${CPU_BASE}" if ":cpu" in image else "${BASE}")
    assert {labels[f"{prefix}base.name"].strip("${}"), "REVISION=unknown"} <= set(stage.all("ARG"))
    assert labels[f"{prefix}title"]
    assert labels[f"{prefix}description"]


@pytest.mark.parametrize("image", FINAL)
def test_its_sbom_lists_the_packages_of_its_own_operating_system(image: str) -> None:
    """dpkg's file comes from the stage that the final one starts with, not from the one that builds."""
    project = source_of(image, "/opt/project")
    (command,) = [each for each in runs(project) if "sbom.py" in each]
    _, _, _, version, python, status, _, document = shlex.split(command)
    assert version == VERSION
    assert document == "/opt/project/share/sbom/image.cdx.json"
    assert any("cyclonedx-py environment" in each and python in each for each in runs(project))
    base = final(image).base
    if status == "/var/lib/dpkg/status":
        assert source_of(image, "/opt/lmaas").base == base
        assert not any(
            "apt-get" in each
            for name in ("/opt/lmaas", "/opt/project")
            for each in runs(source_of(image, name))
        )
    else:
        assert f"--from={base} /var/lib/dpkg/status {status}" in project.all("COPY")


@pytest.mark.parametrize("image", SERVING)
def test_its_health_is_what_an_inference_says(image: str) -> None:
    command = re.fullmatch(r"--interval=\S+ --timeout=\S+ .*CMD (\[.*\])", final(image).one("HEALTHCHECK"))
    assert command is not None
    asked = ["lmaas", "health", *(["--triton"] if "triton" in image else [])]
    assert yaml.safe_load(command[1]) == asked


def test_facade_and_triton_are_one_user() -> None:
    """What a façade lays out, Triton alone may read."""
    assert len({final(image).one("USER") for image in SERVING}) == 1
    assert len({final(image).environment()["LMAAS_HOME"] for image in SERVING}) == 1


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
            assert inherited_environment(dockerfile, stage)["PIP_CONSTRAINT"] == "/src/constraints.txt"
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
    assert (
        packages | modules | {"constraints.txt", "pyproject.toml", "sbom.py", "setup.py", "README.md"} <= sent
    )
    copied = {
        source
        for dockerfile in DOCKERFILES
        for stage in stages(dockerfile)
        for rest in stage.all("COPY")
        if "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert copied <= sent | {"."}
