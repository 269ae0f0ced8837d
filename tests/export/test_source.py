"""What may be handed over, and that an upload never reaches out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export.archive import pack_folder
from export.errors import ExportError
from export.members import ArchiveLimits
from export.source import Source, export_source, open_source
from runtime.contract import Variant
from runtime.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that the hub was asked for; it has none of them."""
    names: list[str] = []

    def refuse(name: object) -> tuple[Path, str]:
        names.append(str(name))
        raise ExportError("asked", field="source")

    monkeypatch.setattr("export.source.fetch_checkpoint", refuse)
    return names


def found(source: Path | str, scratch: Path) -> Source:
    with open_source(source, scratch, ArchiveLimits()) as opened:
        assert opened.folder.is_dir()
        return opened


def test_what_is_there_is_no_name(
    checkpoint: Callable[[str], Path], tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gpt2").mkdir()
    Path("owner").mkdir()
    pack_folder(checkpoint("lm"), Path("owner/gpt2"))
    assert found("gpt2", tmp_path / "scratch") == Source(Path("gpt2"), "gpt2")
    assert found(Path("owner/gpt2"), tmp_path / "scratch").origin == "gpt2"
    assert found(".", tmp_path / "scratch").origin == tmp_path.name
    assert not (tmp_path / "scratch").exists()
    assert asked == []


@pytest.mark.parametrize("source", ["gpt2", Path("owner/gpt2@v1")])
def test_what_is_not_there_may_be_a_name(source: Path | str, tmp_path: Path, asked: list[str]) -> None:
    with pytest.raises(ExportError, match="asked"):
        found(source, tmp_path / "scratch")
    assert asked == [str(source)]


@pytest.mark.parametrize("name", ["upload", "owner/gpt2", "gpt2.zip"])
def test_an_upload_is_no_name(name: str, tmp_path: Path, asked: list[str]) -> None:
    with pytest.raises(ExportError, match="no such file or folder") as caught:
        found(tmp_path / name, tmp_path / "scratch")
    assert caught.value.field == "source"
    assert asked == []


@pytest.mark.parametrize("packed", [False, True])
def test_verification_sees_checkpoint_and_artifact(
    packed: bool, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    source = checkpoint("classifier")
    if packed:
        pack_folder(source, tmp_path / "source")
        source = tmp_path / "source"
    output = tmp_path / "out"
    seen: list[set[str]] = []

    def verify(folder: Path, made: Path) -> str:
        seen.append({path.name for path in folder.iterdir()})
        assert (made / "fp32" / "model.onnx").is_file()
        assert not output.exists()
        return "verified by this test"

    manifest = export_source(
        source,
        output,
        name="x",
        variants=[Variant.FP32],
        overwrite=False,
        limits=ArchiveLimits(),
        verify=verify,
    )
    assert Manifest.load(output) == manifest
    assert manifest.provenance["verified"] == "verified by this test"
    assert seen == [{path.name for path in checkpoint("classifier").iterdir()}]
    assert {path.name for path in tmp_path.iterdir()} == {"out"} | ({"source"} if packed else set())


def test_an_artifact_cannot_be_verified(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="without the checkpoint") as caught:
        export_source(
            artifact("classifier"),
            tmp_path / "out",
            name="x",
            variants=[Variant.FP32],
            overwrite=False,
            limits=ArchiveLimits(),
            verify=lambda *_: "",
        )
    assert caught.value.field == "verify"
    assert not (tmp_path / "out").exists()


def test_the_library_of_the_hub_is_loaded_for_a_name_alone() -> None:
    script = "import sys, export.source; print('huggingface_hub' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.strip() == "False"
