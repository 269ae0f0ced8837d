"""`lmaas export` as its user sees it: stages, tables, and one line where it cannot go on."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from export.archive import pack_folder
from export.verification.verify import Verification
from lmaas import app
from runtime.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]
NLI, LM = ROOT / "models" / "mini-nli", ROOT / "models" / "mini-lm"
STAGES = ["read", "build fp32", "write texts", "measure fp32", "calibrate int8", "build int8", "measure int8"]


def export(source: Path | str, output: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["export", str(source), "-o", str(output), *options])


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_ends_with_a_table_of_variants(tmp_path: Path) -> None:
    ended = export(NLI, tmp_path / "out")
    assert ended.exit_code == 0, ended.output
    header, _, fp32, int8, last = lines(ended.stdout)
    assert header.split() == ["variant", "size", "load", "against", "fp32"]
    assert re.fullmatch(r" fp32 +8\.7 MB +\d\.\d\d s *", fp32)
    assert re.fullmatch(r" int8 +3\.7 MB +\d\.\d\d s +labels [0-9.]+ %  F1 [01]\.\d{3}  shift 0\.\d+ *", int8)
    assert re.fullmatch(rf"{tmp_path}/out: mini-nli, kind classifier, in \d+\.\d s", last)


def test_elsewhere_than_on_a_terminal_a_stage_is_a_line(tmp_path: Path) -> None:
    output = lines(export(NLI, tmp_path / "out").stderr)
    assert [re.sub(r" +\d+\.\d s$", "", line) for line in output] == [*STAGES, "finish"]


def test_on_a_terminal_a_stage_is_a_bar(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "lmaas", "export", str(NLI), "-o", str(tmp_path / "out")]
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as child:
        os.close(theirs)
        shown = read_to_end(ours)
        assert child.stdout is not None
        table = child.stdout.read()
    assert child.returncode == 0, shown
    assert "\x1b" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).rpartition("read ")[2]
    assert [name for name in [*STAGES, "finish"] if name not in f"read {last}"] == []
    assert "\x1b" not in table
    assert "int8" in table


def read_to_end(terminal: int) -> str:
    data = b""
    try:
        while chunk := os.read(terminal, 65536):
            data += chunk
    except OSError:  # how a terminal ends whose other side was closed
        pass
    os.close(terminal)
    return data.decode()


def hear_interrupts() -> None:
    """What runs in the background of a shell is started deaf to SIGINT, and so are its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lmaas", "export", str(LM), "-o", str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, preexec_fn=hear_interrupts) as child:
        assert child.stderr is not None
        shown = b""
        while b"build fp32" not in shown:
            chunk = os.read(child.stderr.fileno(), 4096)
            assert chunk, shown
            shown += chunk
        child.send_signal(signal.SIGINT)
        rest = child.stderr.read().decode()
    assert child.returncode == 130
    assert lines(rest) == ["lmaas: interrupted: nothing was written"]
    assert list(tmp_path.iterdir()) == []


def test_the_name_is_that_of_the_source(tmp_path: Path) -> None:
    pack_folder(NLI, tmp_path / "other.v2.tar.gz")
    for source, options, name in (
        (tmp_path / "other.v2.tar.gz", (), "other"),
        (NLI, (), "mini-nli"),
        (NLI, ("--name", "given"), "given"),
    ):
        ended = export(source, tmp_path / "out", "--variants", "fp32", "--overwrite", *options)
        assert ended.exit_code == 0, ended.output
        assert Manifest.load(tmp_path / "out").name == name


def test_compares_on_a_text_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("A man sleeps.\tA man is awake.\nIt rains.\n", "utf-8")
    ended = export(NLI, tmp_path / "out", "--variants", "int8", "--calibration", str(tmp_path / "pairs.txt"))
    assert ended.exit_code == 0, ended.output
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.golden[0].text_pair == "A man is awake."
    assert manifest.provenance["compared_on"] == "a calibration text"


def verified(agreeing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Verification("an oracle", texts=50, agreeing=agreeing, max_logit_difference=1e-6)
    monkeypatch.setattr("export.verification.verify.verify", lambda *_, **__: [row])


def test_verify_shows_who_answers_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified(50, monkeypatch)
    ended = export(NLI, tmp_path / "out", "--variants", "fp32", "--verify")
    assert ended.exit_code == 0, ended.output
    assert re.search(r"an oracle +1\.0e-06 +50/50", ended.stdout)
    output = Manifest.load(tmp_path / "out").provenance["verified"]
    assert output == "an oracle: max logit difference 1.0e-06, same answers 50/50"


def test_verify_fails_where_one_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified(49, monkeypatch)
    ended = export(NLI, tmp_path / "out", "--variants", "fp32", "--verify")
    assert ended.exit_code == 1
    assert re.search(r"an oracle +1\.0e-06 +49/50", ended.stdout)
    assert lines(ended.stderr)[-1].startswith("lmaas: verify: fp32 differs from an oracle")
    assert not any(tmp_path.iterdir())


def cut_short(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_while_verifying_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.verification.verify.verify", cut_short)
    ended = export(NLI, tmp_path / "out", "--variants", "fp32", "--verify")
    assert ended.exit_code == 130
    assert lines(ended.stderr)[-1] == "lmaas: interrupted: nothing was written"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        ("nothing.zip", (), "nothing.zip: no such file or folder"),
        ("text", (), "archive: not a sound .tar, .tar.gz, .tar.zst or .zip archive"),
        ("\x1b[31m", (), "\\x1b[31m: no such file or folder"),
        ("x" * 300, (), "File name too long"),
        (NLI, ("--variants", "fp32,fp31"), "--variants: 'fp31' is not one of fp32, fp16, int8, int4"),
        (NLI, ("--variants", ""), "--variants: '' is not one of"),
        (NLI, ("--variants", "fp32,fp32"), "variants: at least one is needed, and each only once"),
        (NLI, ("--calibration", "nothing"), "calibration: nothing: No such file or directory"),
        (NLI, ("--variants", "int8", "--verify"), "verify: only fp32 is compared"),
        (NLI, ("--output", "text"), "text: exists, and is no folder"),
        (NLI, ("--output", "text/below"), "text: File exists"),
    ],
)
def test_says_in_one_line_what_is_wrong(
    source: Path | str, options: tuple[str, ...], expected: str, in_a_folder: Callable[[], list[str]]
) -> None:
    before = in_a_folder()
    ended = CliRunner().invoke(
        app, ["export", str(source), *options, *([] if "--output" in options else ["-o", "out"])]
    )
    assert ended.exit_code == 1
    assert ended.stdout == ""
    assert expected in lines(ended.stderr)[-1]
    assert len([line for line in lines(ended.stderr) if line.startswith("lmaas: ")]) == 1
    assert in_a_folder() == before


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Work in a folder of its own that holds the file `text`; returns what lists it."""
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("no archive", "utf-8")
    return lambda: sorted(os.listdir(tmp_path))
