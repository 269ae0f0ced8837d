"""The peers' environments: one each under var/peers, with the versions that perf/peers/requirements pins."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

from perf.peers.catalogue import Environment


def install(environment: Environment) -> None:
    """Make the environment, or leave it as it is where the same requirements made it."""
    wanted = environment.requirements.read_text("utf-8")
    mark = environment.folder / "installed"
    if environment.is_installed and mark.read_text("utf-8") == wanted:
        print(f"{environment.name}: installed already", flush=True)
        return
    print(f"{environment.name}: installing ...", flush=True)
    begin = time.monotonic()
    shutil.rmtree(environment.folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(environment.folder)], check=True)
    pip = [str(environment.folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--requirement", str(environment.requirements)], check=True)
    if environment.unwanted:
        subprocess.run([*pip, "uninstall", "--quiet", "--yes", *environment.unwanted], check=True)
    mark.write_text(wanted, "utf-8")
    print(f"{environment.name}: installed in {time.monotonic() - begin:.0f} s", flush=True)
