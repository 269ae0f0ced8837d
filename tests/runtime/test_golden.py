"""A version that does not answer as its manifest says is not served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.contract import ENGINE_FILE, MANIFEST_FILE
from runtime.engine import Engine
from runtime.errors import ModelError
from tests.runtime.engines import version_folder


def edited(folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    edit(manifest)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    return folder


def change_last(manifest: dict[str, Any]) -> None:
    tokens = manifest["golden"][1]["token_ids"]
    tokens[-1] = (tokens[-1] + 1) % 300


def change_first(manifest: dict[str, Any]) -> None:
    for prompt in manifest["golden"]:
        prompt["token_ids"][0] = (prompt["token_ids"][0] + 1) % 300


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_what_the_exporter_wrote_is_served(lm_artifact: Path, tmp_path: Path, variant: str) -> None:
    Engine.load(version_folder(lm_artifact, tmp_path / "1", variant, num_slots=1, max_queued=1)).close()


def test_fp32_must_give_every_token(lm_artifact: Path, tmp_path: Path) -> None:
    folder = edited(version_folder(lm_artifact, tmp_path / "1"), change_last)
    with pytest.raises(ModelError, match=r"tiny-lm: fp32: golden prompt .* token \d+ of \d+"):
        Engine.load(folder)


def test_int8_must_still_be_the_same_model(lm_artifact: Path, tmp_path: Path) -> None:
    folder = edited(version_folder(lm_artifact, tmp_path / "1", "int8"), change_last)
    Engine.load(folder).close()
    with pytest.raises(ModelError, match="0% of the golden prompts go on as in fp32"):
        Engine.load(edited(folder, change_first))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda manifest: manifest.update(kind="classifier"), "kind: classifier"),
        (lambda manifest: manifest["variants"].pop("fp32"), "variant fp32 is not among int8"),
        (lambda manifest: manifest.pop("golden") and manifest.update(more=1), "more: unknown"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    lm_artifact: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], object], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        Engine.load(edited(version_folder(lm_artifact, tmp_path / "1"), edit))


@pytest.mark.parametrize("missing", [MANIFEST_FILE, ENGINE_FILE, "tokenizer.json", "fp32/model.onnx"])
def test_a_missing_file_is_named(lm_artifact: Path, tmp_path: Path, missing: str) -> None:
    folder = version_folder(lm_artifact, tmp_path / "1")
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=Path(missing).name):
        Engine.load(folder)


def test_a_file_that_is_no_graph_is_refused(lm_artifact: Path, tmp_path: Path) -> None:
    folder = version_folder(lm_artifact, tmp_path / "1")
    (folder / "fp32/model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match=r"model\.onnx"):
        Engine.load(folder)
