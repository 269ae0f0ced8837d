"""Whatever is handed over ends in one clear sentence: no traceback, no hang, no memory without end.

Every input of the gallery goes through the door that the façade and the command line use.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from export.errors import ExportError
from export.members import ArchiveLimits
from export.source import export_source
from runtime.contract import Variant
from tests.export.malformed.gallery import GALLERY
from tests.export.malformed.inputs import Sound

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = (Variant.FP32, Variant.FP16)
SECONDS = 20  # for one input on a busy machine; a bomb that unpacks takes the longest
DATA_BYTES = 1 << 30
RESIDENT_BYTES = 768 << 20
# Exports each line of its input as the façade does, and prints what came of it; then the memory it took.
CHILD = """
import contextlib, io, json, resource, sys
from pathlib import Path
from export.__main__ import main
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]),) * 2)
for line in sys.stdin:
    source, output = json.loads(line)
    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        status = main([source, output, "--name", "x", "--variants", "fp32,fp16", "--json-progress"])
    events = [json.loads(event) for event in report.getvalue().splitlines()]
    print(json.dumps([status, [event["message"] for event in events if event["event"] == "error"]]))
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.fixture(scope="session")
def source(
    checkpoint: Callable[[str], Path],
    artifact: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """Where an input of the gallery lies; it is made once."""
    made: dict[str, Path] = {}
    sound = Sound(checkpoint, artifact)

    def make(name: str) -> Path:
        if name not in made:
            made[name] = GALLERY[name][0](sound, tmp_path_factory.mktemp("malformed"))
        return made[name]

    return make


def test_the_gallery_is_large() -> None:
    assert len(GALLERY) >= 150


@pytest.mark.parametrize("name", GALLERY)
def test_refuses(name: str, source: Callable[[str], Path], tmp_path: Path) -> None:
    given, part = source(name), GALLERY[name][1]
    begin = time.monotonic()
    with pytest.raises(ExportError) as caught:
        export_source(
            given, tmp_path / "out", name="x", variants=VARIANTS, overwrite=False, limits=ArchiveLimits()
        )
    assert time.monotonic() - begin < SECONDS
    message = caught.value.message
    assert part in message
    assert message.isprintable()
    assert len(message) < 600
    assert str(given.parent) not in message
    assert str(tmp_path) not in message
    assert os.listdir(tmp_path) == []


@pytest.mark.timeout(300)
def test_one_process_refuses_all_within_its_memory(source: Callable[[str], Path], tmp_path: Path) -> None:
    lines = "".join(json.dumps([str(source(name)), str(tmp_path / "out")]) + "\n" for name in GALLERY)
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, str(DATA_BYTES)],
        cwd=ROOT,
        input=lines,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    *answers, resident = map(json.loads, ended.stdout.splitlines())
    assert len(answers) == len(GALLERY)
    messages: dict[str, list[str]] = {}
    for name, (status, errors) in zip(GALLERY, answers, strict=True):
        assert status == 2, name
        (message,) = errors
        assert GALLERY[name][1] in message
        messages.setdefault(message, []).append(name)
    assert [names for names in messages.values() if len(names) > 1] == []
    assert resident * 1024 < RESIDENT_BYTES
    assert os.listdir(tmp_path) == []
