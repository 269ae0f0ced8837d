"""generation_config.json: ends of text beside those of config.json, sampling as with vLLM, and notes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2LMHeadModel

from export.checkpoint.config import read_config
from export.errors import CheckpointError
from export.inspection.checkpoint import ModelFacts
from export.pipeline import export_checkpoint
from runtime.contract import Variant
from runtime.manifest import Manifest
from tests.export.checkpoints import save_lm
from tests.export.edits import change_config


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """config.json of a language model, whose end of text is 0."""
    (tmp_path / "config.json").write_bytes((checkpoint("lm") / "config.json").read_bytes())
    return tmp_path


def write(folder: Path, data: object) -> None:
    (folder / "generation_config.json").write_text(json.dumps(data), "utf-8")


@pytest.mark.parametrize(
    ("data", "ends", "notes"),
    [
        (None, (0,), []),
        ({}, (0,), []),
        ({"_from_model_config": True, "eos_token_id": 0, "transformers_version": "4.57.6"}, (0,), []),
        ({"eos_token_id": None, "temperature": None}, (0,), []),
        ({"eos_token_id": [0]}, (0,), []),
        ({"eos_token_id": 5}, (0, 5), []),
        ({"eos_token_id": [7, 0, 9]}, (0, 7, 9), []),
        ({"temperature": 0.7, "top_p": 0.9, "do_sample": True}, (0,), []),
        (
            {"num_beams": 2, "do_sample": False},
            (0,),
            ["num_beams 2, do_sample False: not taken over; a request brings its own"],
        ),
    ],
)
def test_what_is_taken_over(data: object, ends: tuple[int, ...], notes: list[str], folder: Path) -> None:
    if data is not None:
        write(folder, data)
    config = read_config(folder)
    assert config.architecture.ends == ends
    assert config.eos_token_id == ends[0]
    assert config.notes == tuple(f"generation_config.json: {note}" for note in notes)
    assert ModelFacts.of(config).notes == config.notes


@pytest.mark.parametrize(
    ("data", "sampling", "ignored"),
    [
        ({}, {}, ""),
        ({"temperature": 0, "top_k": 50}, {"temperature": 0.0, "top_k": 50.0}, ""),
        ({"min_p": 0.1, "repetition_penalty": 1.2}, {"min_p": 0.1, "repetition_penalty": 1.2}, ""),
        ({"top_p": 2, "top_k": 1.5, "temperature": "1"}, {}, "top_p 2, top_k 1.5, temperature 1"),
        ({"top_p": True, "min_p": -0.5}, {}, "top_p True, min_p -0.5"),
    ],
)
def test_sampling_is_the_default_of_requests_where_a_request_could_set_it(
    data: object, sampling: dict[str, float], ignored: str, folder: Path
) -> None:
    write(folder, data)
    config = read_config(folder)
    assert config.sampling == sampling
    note = f"generation_config.json: {ignored}: not taken over; a request brings its own"
    assert config.notes == ((note,) if ignored else ())


def test_the_notes_are_short(folder: Path) -> None:
    write(folder, {f"key {number}": "x" * 1000 for number in range(20)})
    (note,) = read_config(folder).notes
    assert len(note) < 700
    assert " and 12 more: not taken over" in note


@pytest.mark.parametrize("value", [300, -1, True, "0", [0, "1"], [300], 0.0])
def test_an_end_of_text_that_is_no_token_is_refused(value: object, folder: Path) -> None:
    write(folder, {"eos_token_id": value})
    with pytest.raises(CheckpointError, match="a whole number from 0 to 299, or a list of them") as caught:
        read_config(folder)
    assert caught.value.field == "generation_config.json"


def test_a_file_that_cannot_be_read_is_refused(folder: Path) -> None:
    (folder / "generation_config.json").write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match=r"generation_config\.json: not JSON"):
        read_config(folder)


def test_heads_do_not_generate(checkpoint: Callable[[str], Path], folder: Path) -> None:
    (folder / "config.json").write_bytes((checkpoint("classifier") / "config.json").read_bytes())
    write(folder, {"eos_token_id": 5, "temperature": 2})
    assert (read_config(folder).eos_token_id, read_config(folder).notes) == (0, ())


@pytest.mark.parametrize(
    ("changes", "written", "end", "ends"),
    [
        ({}, None, 0, (0,)),
        ({"eos_token_id": None}, None, None, ()),
        ({"eos_token_id": None}, {"eos_token_id": 5}, 5, (5,)),
        ({}, {"eos_token_id": 5}, 5, (0, 5)),
        ({"eos_token_id": [0, 7]}, None, [0, 7], (0, 7)),
        ({"eos_token_id": [7, 0]}, {"eos_token_id": [5, 7]}, [5, 7], (7, 0, 5)),
    ],
)
def test_a_text_ends_where_one_of_both_files_says(
    changes: dict[str, Any], written: object, end: object, ends: tuple[int, ...], tmp_path: Path
) -> None:
    """transformers reads one of the two; the union ends a text here."""
    save_lm(tmp_path, **changes)
    if written is not None:
        write(tmp_path, written)
    model = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert model.generation_config.eos_token_id == end
    assert read_config(tmp_path).architecture.ends == ends


def test_null_means_none_and_absent_means_gpt2s_own(tmp_path: Path) -> None:
    save_lm(tmp_path, eos_token_id=None, pad_token_id=None)
    config = read_config(tmp_path)
    assert (config.eos_token_id, config.pad_token_id) == (None, None)
    assert (
        "nothing ends a text before its longest length (eos_token_id null)" in ModelFacts.of(config).unusual
    )
    change_config(eos_token_id=None, pad_token_id=None, vocab_size=50257)(tmp_path)  # removes two
    (tmp_path / "generation_config.json").unlink()
    config = read_config(tmp_path)
    assert (config.eos_token_id, config.pad_token_id) == (50256, None)


def test_a_classifier_needs_no_end_of_text(checkpoint: Callable[[str], Path], folder: Path) -> None:
    (folder / "config.json").write_bytes((checkpoint("classifier") / "config.json").read_bytes())
    change_config(eos_token_id=None)(folder)
    assert read_config(folder).eos_token_id is None


def test_an_echo_needs_one(checkpoint: Callable[[str], Path], folder: Path) -> None:
    data = json.loads((checkpoint("nlu") / "config.json").read_text("utf-8")) | {"eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(data), "utf-8")
    with pytest.raises(CheckpointError, match="nlu_echo needs it") as caught:
        read_config(folder)
    assert caught.value.field == "eos_token_id"


def test_the_artifact_keeps_sampling_and_notes(tmp_path: Path) -> None:
    save_lm(tmp_path / "checkpoint")
    write(tmp_path / "checkpoint", {"num_beams": 5, "top_p": 0.5})
    manifest = export_checkpoint(tmp_path / "checkpoint", tmp_path / "out", name="x", variants=[Variant.FP32])
    assert Manifest.load(tmp_path / "out").sampling == manifest.sampling == {"top_p": 0.5}
    note = "generation_config.json: num_beams 5: not taken over; a request brings its own"
    assert manifest.provenance["notes"] == note
