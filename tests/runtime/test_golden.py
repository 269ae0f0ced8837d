"""A version that does not answer as its manifest says is not served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from runtime.contract import ENGINE_FILE
from runtime.errors import ModelError
from runtime.load import load_engine
from runtime.manifest import MANIFEST_FILE
from tests.runtime.engines import version_folder


def edited(folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    edit(manifest)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    return folder


def answer(manifest: dict[str, Any], variant: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = manifest["variants"][variant]["golden"][1]
    return found


def unproven(manifest: dict[str, Any]) -> dict[str, Any]:
    """Without golden prompts, which are of one kind."""
    manifest["golden"] = []
    for entry in manifest["variants"].values():
        entry["golden"] = []
    return manifest


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_what_the_exporter_wrote_is_served(lm_artifact: Path, tmp_path: Path, variant: str) -> None:
    load_engine(version_folder(lm_artifact, tmp_path / "1", variant, num_slots=1, max_queued=1)).close()


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_every_token_must_be_likely(lm_artifact: Path, tmp_path: Path, variant: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        tokens = answer(manifest, variant)["token_ids"]
        tokens[-1] = (tokens[-1] + 1) % 300

    folder = edited(version_folder(lm_artifact, tmp_path / "1", variant), change)
    with pytest.raises(ModelError, match=rf"tiny-lm: {variant}: golden prompt .* token 8 of 8"):
        load_engine(folder)


@pytest.mark.parametrize(("variant", "allowed"), [("fp32", 0.01), ("int8", 0.1)])
def test_every_token_must_be_as_likely_as_it_was(
    lm_artifact: Path, tmp_path: Path, variant: str, allowed: float
) -> None:
    def change(by: float) -> Callable[[dict[str, Any]], None]:
        def edit(manifest: dict[str, Any]) -> None:
            answer(manifest, variant)["logprobs"][0] += by

        return edit

    folder = edited(version_folder(lm_artifact, tmp_path / "1", variant), change(allowed / 2))
    load_engine(folder).close()
    with pytest.raises(
        ModelError, match=r"token 1 of 8 has the log-probability -[\d.]+, but the manifest says"
    ):
        load_engine(edited(folder, change(allowed)))


def test_weights_that_changed_on_the_way_are_not_served(lm_artifact: Path, tmp_path: Path) -> None:
    """One matrix of int8 weights turned about: a sound graph that answers something else."""
    folder = version_folder(lm_artifact, tmp_path / "1", "int8")
    path = folder / "int8" / "model.onnx"
    model = onnx.load(path)
    matrix = next(item for item in model.graph.initializer if item.name == "h.0.mlp.c_fc.weight")
    matrix.raw_data = matrix.raw_data[::-1]
    path.unlink()
    onnx.save(model, path)
    with pytest.raises(ModelError, match="int8: golden prompt"):
        load_engine(folder)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda manifest: unproven(manifest).update(kind="classifier"), "kind: classifier"),
        (lambda manifest: manifest["variants"].pop("fp32"), "variant fp32 is not among int4, int8"),
        (lambda manifest: manifest.pop("golden") and manifest.update(more=1), "more: unknown"),
        (lambda manifest: manifest.pop("golden"), r"fp32\.golden: 4 answers to 0 golden prompts"),
        (lambda manifest: answer(manifest, "int8").pop("logprobs"), "8 tokens, 0 logprobs"),
        (lambda manifest: answer(manifest, "int8").clear(), "no answer of kind lm"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    lm_artifact: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], object], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        load_engine(edited(version_folder(lm_artifact, tmp_path / "1"), edit))


@pytest.mark.parametrize("missing", [MANIFEST_FILE, ENGINE_FILE, "tokenizer.json", "fp32/model.onnx"])
def test_a_missing_file_is_named(lm_artifact: Path, tmp_path: Path, missing: str) -> None:
    folder = version_folder(lm_artifact, tmp_path / "1")
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=Path(missing).name):
        load_engine(folder)


def test_a_file_that_is_no_graph_is_refused(lm_artifact: Path, tmp_path: Path) -> None:
    folder = version_folder(lm_artifact, tmp_path / "1")
    (folder / "fp32/model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match=r"model\.onnx"):
        load_engine(folder)
