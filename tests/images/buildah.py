"""Images and containers without a container engine: buildah, on a base that debootstrap makes. Needs root."""

from __future__ import annotations

import ast
import copy
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BASE = "localhost/lmaas-base"
REVISION = "the revision of a test"
INIT = "tini"
START_SECONDS = 20.0  # until the first process of a container is there
UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
# As an engine mounts them, and of the size that compose.yaml gives them.
IN_MEMORY = {"/tmp": "1g", "/dev/shm": "1g"}
# In a mount namespace of its own: makes a container's root read-only, and runs a command there.
ENTER = """
mount --bind {root} {root} && mount -o remount,bind,ro {root} &&
mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev && mount --rbind /sys {root}/sys &&
{mounts} && exec /usr/sbin/chroot {root} /usr/bin/env --chdir={place} "$@"
"""


def pip_settings() -> dict[str, str]:
    """What pip is configured with on this machine, by files and variables."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    pairs = (line.partition("=") for line in listed.splitlines())
    found = {name.partition(".")[2]: str(ast.literal_eval(value)) for name, _, value in pairs}
    found.pop("constraint", None)  # the images have one
    return found


def named_folders(settings: Mapping[str, str]) -> list[Path]:
    """The folders of packages on this machine that pip's settings name."""
    words = (word.removeprefix("file://") for value in settings.values() for word in value.split())
    paths = (Path(word.removesuffix("/simple")) for word in words if word.startswith("/"))
    return sorted({path for path in paths if path.is_dir()})


class Store:
    """A store of images in `folder`; `close` removes it.

    Its layers lie over each other where the kernel and the file system of `folder` can do that; elsewhere,
    as in most containers, each is a full copy, which takes minutes more.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._driver = "overlay"
        if subprocess.run(self.command("info"), capture_output=True).returncode != 0:
            self._driver = "vfs"

    def close(self) -> None:
        self.run("rm", "--all")
        self.run("rmi", "--all", "--force")
        shutil.rmtree(self._folder)

    def command(self, *arguments: str) -> list[str]:
        folder = self._folder / self._driver
        folders = (f"--root={folder / 'root'}", f"--runroot={folder / 'run'}")
        return ["buildah", f"--storage-driver={self._driver}", *folders, *arguments]

    def run(self, *arguments: str) -> str:
        """Run a command of buildah; returns its output. Raises AssertionError with the last lines of it."""
        ended = subprocess.run(self.command(*arguments), capture_output=True, text=True)
        assert ended.returncode == 0, "\n".join((ended.stdout + ended.stderr).splitlines()[-40:])
        return ended.stdout.strip()

    def make_base(self) -> None:
        """Debian as debootstrap installs it, with this machine's settings of pip and its certificates."""
        container = self.run("from", "scratch")
        root = Path(self.run("mount", container))
        debootstrap = ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(root)]
        subprocess.run(debootstrap, check=True, stdout=subprocess.DEVNULL)
        shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        lines = [f"{name} = {value}" for name, value in pip_settings().items()]
        (root / "etc" / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
        shutil.rmtree(root / "var" / "cache" / "apt" / "archives")
        self.run("umount", container)
        self.run("commit", "--rm", container, BASE)

    def build(self, name: str, dockerfile: str, argument: str, *options: str) -> None:
        """Build an image from this checkout; `argument` is the build argument that names its base."""
        volumes = [f"--volume={folder}:{folder}:ro" for folder in named_folders(pip_settings())]
        self.run(
            "build", "--format=docker", "--isolation=chroot", f"--build-arg={argument}={BASE}", *volumes,
            f"--build-arg=REVISION={REVISION}", *options,
            f"--file={ROOT / dockerfile}", f"--tag=localhost/{name}", str(ROOT),
        )  # fmt: skip

    def configuration(self, name: str) -> dict[str, Any]:
        """Of an image, with Docker's names: User, Env, Entrypoint, Cmd, Healthcheck, StopSignal, Labels."""
        found = json.loads(self.run("inspect", "--type=image", f"localhost/{name}"))
        config: dict[str, Any] = found["Docker"]["config"]
        return config


class Container:
    """Of an image, in namespaces of its own but for the network.

    Its root is read-only; `volumes` are folders of this machine, and /tmp and /dev/shm lie in memory. Its
    processes have the image's user, no capability and no way to get one.
    """

    def __init__(
        self, store: Store, image: str, volumes: Mapping[str, Path], variables: Mapping[str, str]
    ) -> None:
        self._store = store
        self.configuration = store.configuration(image)
        self.name = store.run("from", f"localhost/{image}")
        self.root = Path(store.run("mount", self.name))
        self._volumes = volumes
        of_image = dict(item.split("=", 1) for item in self.configuration["Env"])
        self._environment = {**of_image, **variables}
        self.process: subprocess.Popen[bytes] | None = None

    def again(self, volumes: Mapping[str, Path]) -> Container:
        """A second container with the same root, and other volumes; end it by its `process`."""
        other = copy.copy(self)
        other._volumes = volumes
        other.process = None
        return other

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        """Start what the image starts; its lines go to the file `log`."""
        mounts = " && ".join(
            (
                *(f"mount --bind {folder} {self.root}{place}" for place, folder in self._volumes.items()),
                *(
                    f"mount -t tmpfs -o nosuid,nodev,noexec,size={size} tmpfs {self.root}{place}"
                    for place, size in IN_MEMORY.items()
                ),
            )
        )
        command = [*self.configuration["Entrypoint"], *self.configuration["Cmd"]]
        script = ENTER.format(root=self.root, mounts=mounts, place=self.configuration["WorkingDir"])
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*UNSHARE, "sh", "-c", script, "sh", *self._as_user(self.configuration["User"]), *command],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        return self.process

    def execute(self, *command: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end beside what runs; as the image's user where none is given."""
        enter = [
            "nsenter",
            f"--target={self.processes()[0].pid}",
            "--mount",
            "--pid",
            "--root",
            "--wd=/",
            "--",
        ]
        return subprocess.run(
            [*enter, *self._as_user(user or self.configuration["User"]), *command],
            env=self._environment,
            capture_output=True,
            text=True,
        )

    def _as_user(self, user: str) -> list[str]:
        number, _, group = user.partition(":")
        limits = ["--clear-groups", "--no-new-privs", "--bounding-set=-all"]
        return ["/usr/bin/setpriv", f"--reuid={number}", f"--regid={group}", *limits, "--"]

    def processes(self) -> list[psutil.Process]:
        """The first process, to which an engine sends its signals, and all below it."""
        assert self.process is not None
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            for process in psutil.Process(self.process.pid).children():
                if process.name() == INIT:
                    return [process, *process.children(recursive=True)]
            time.sleep(0.05)
        raise AssertionError(f"{self.name} has no process {INIT}")

    def stop(self) -> tuple[int, float]:
        """SIGTERM, as an engine sends it; the status, and the seconds that it took."""
        assert self.process is not None
        begin = time.monotonic()
        self.processes()[0].terminate()
        return self.process.wait(60), time.monotonic() - begin

    def health(self) -> subprocess.CompletedProcess[str]:
        """What an engine runs to ask whether it is healthy."""
        kind, *command = self.configuration["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.execute(*command)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()  # its namespace, and with it every process there, ends
            self.process.wait()
        self._store.run("umount", self.name)
        self._store.run("rm", self.name)


def size_of(root: Path) -> float:
    """Megabytes of the files below a folder, each counted once."""
    counted: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            status = Path(folder, name).lstat()
            counted[status.st_dev, status.st_ino] = status.st_size
    return sum(counted.values()) / 1e6
