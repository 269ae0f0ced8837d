"""Exports that are killed or run out of disk: no incomplete artifact appears, and the next run cleans up."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from export.errors import ExportError
from export.pipeline import export_checkpoint
from export.progress import Progress
from runtime.contract import Variant
from runtime.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]
EVERY = ",".join(variant.value for variant in Variant)


def start(checkpoint: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "export", str(checkpoint), str(out), "--name", "x", "--json-progress"]
    command += ["--variants", EVERY, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_at(place: int, checkpoint: Path, out: Path) -> bool:
    """Kill an export when it reported its progress for the `place`th time; False where it ended before."""
    child = start(checkpoint, out, "--overwrite")
    assert child.stdout is not None
    with child:
        for number, line in enumerate(child.stdout):
            if number == place and json.loads(line)["event"] == "progress":
                child.kill()
                break
    return child.returncode == -signal.SIGKILL


def whole(out: Path) -> bool:
    """Every file that the manifest lists is there with its size."""
    manifest = Manifest.load(out)
    files = [manifest.tokenizer, *(file for entry in manifest.variants.values() for file in entry.files)]
    return all((out / file.path).stat().st_size == file.size for file in files)


def test_killed_at_any_stage_it_leaves_nothing_that_looks_whole(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for place in itertools.count():
        if not kill_at(place, checkpoint("lm"), out):
            break
        # The export can end before the kill that follows its last report.
        if out.exists():
            assert whole(out)
            shutil.rmtree(out)
    assert place > 8
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert whole(out)


def test_killed_while_it_replaces_an_artifact_it_leaves_the_old_or_the_new_one(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Killed after longer and longer times; the last ones are between the renames or close to them."""
    out = tmp_path / "out"
    export_checkpoint(checkpoint("lm"), out, name="first", variants=[Variant.FP32])
    begin = time.monotonic()
    with start(checkpoint("lm"), out, "--overwrite") as child:
        child.communicate(timeout=60)
    lasts = time.monotonic() - begin
    for share in (0.3, 0.6, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99):
        with start(checkpoint("lm"), out, "--overwrite") as child:
            try:
                child.wait(timeout=share * lasts)
            except subprocess.TimeoutExpired:
                child.kill()
        # Between the two renames the old artifact has another name, and is the valid one.
        assert whole(out if out.exists() else tmp_path / ".out.old")
    export_checkpoint(checkpoint("lm"), out, name="last", variants=[Variant.FP32], overwrite=True)
    assert Manifest.load(out).name == "last"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("limit", [100_000, 500_000, 700_000])
def test_a_full_disk_is_the_machines_fault_and_leaves_nothing(
    limit: int, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """A limit for the size of files replaces the full disk: writes fail with the same kind of error."""
    command = [sys.executable, "-m", "export", str(checkpoint("lm")), str(tmp_path / "out"), "--name", "x"]
    ended = subprocess.run(
        [*command, "--json-progress"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    event = json.loads(ended.stdout.splitlines()[-1])
    assert (ended.returncode, event["event"], event["field"]) == (3, "error", None)
    assert event["message"] == "File too large (OSError)"
    assert ended.stderr == ""
    assert os.listdir(tmp_path) == []


def test_a_caller_that_stops_leaves_nothing(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "measure int8":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(checkpoint("lm"), tmp_path / "out", name="x", variants=[Variant.INT8], report=stop)
    assert os.listdir(tmp_path) == []


def test_an_output_that_is_there_is_refused_before_any_work(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    seen: list[Progress] = []
    with pytest.raises(ExportError, match="out: exists already"):
        export_checkpoint(
            checkpoint("lm"), tmp_path / "out", name="x", variants=[Variant.FP32], report=seen.append
        )
    assert [progress.stage for progress in seen] == ["read"]
