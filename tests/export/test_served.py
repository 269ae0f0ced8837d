"""What `inspect` and the exporter accept, the engine loads and answers; the rest both refuse, alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from export.errors import CheckpointError
from export.inspection.checkpoint import CheckpointFacts
from export.inspection.inspect import inspect_path
from export.members import ArchiveLimits
from export.pipeline import export_checkpoint
from export.validation.artifact import import_artifact
from runtime.contract import Operation, Variant
from runtime.errors import RequestFault
from runtime.heads import HeadAnswer, HeadInput, HeadModel
from runtime.load import load_engine
from runtime.manifest import Manifest
from tests.export.checkpoints import save_classifier, save_lm
from tests.runtime.engines import ask, version_folder

Folder = Callable[..., Path]


def letters(alphabet: str, **ids: int) -> Tokenizer:
    """A letter is a token, and the tokens `ids` are beside them, with no others between."""
    vocabulary = {letter: number for number, letter in enumerate(alphabet)} | ids
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    def make(save: Callable[..., object], tokenizer: Tokenizer | None = None, **changes: Any) -> Path:
        save(tmp_path / "checkpoint", **changes)
        if tokenizer is not None:
            tokenizer.save(str(tmp_path / "checkpoint" / "tokenizer.json"))
        return tmp_path / "checkpoint"

    return make


def problem(checkpoint: Path) -> str | None:
    facts = inspect_path(checkpoint, ArchiveLimits())
    assert isinstance(facts, CheckpointFacts)
    return facts.problem


def exported(checkpoint: Path) -> Path:
    assert problem(checkpoint) is None
    artifact = checkpoint.parent / "artifact"
    export_checkpoint(checkpoint, artifact, name="x", variants=[Variant.FP32, Variant.INT8])
    return artifact


LANGUAGE_MODELS: dict[str, tuple[Tokenizer | None, dict[str, Any]]] = {
    "context 2": (None, {"n_positions": 2}),
    "context 4": (None, {"n_positions": 4}),
    "context 11": (None, {"n_positions": 11}),
    "without the letters of The": (letters("abcd"), {"n_positions": 11}),
    "one token": (letters("a"), {"vocab_size": 1, "n_positions": 2}),
    "two tokens": (letters("ab"), {"vocab_size": 2}),
    "ids that no token has": (letters("abcd", zz=250), {}),
    "no end of text": (None, {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None}),
    "an end of text that is no token": (None, {"eos_token_id": 299}),
}


@pytest.mark.parametrize(("tokenizer", "changes"), LANGUAGE_MODELS.values(), ids=LANGUAGE_MODELS.keys())
def test_a_language_model_is_served(
    tokenizer: Tokenizer | None, changes: dict[str, Any], folder: Folder, tmp_path: Path
) -> None:
    artifact = exported(folder(save_lm, tokenizer, **changes))
    manifest = Manifest.load(artifact)
    assert manifest.golden
    assert import_artifact(artifact, tmp_path / "imported").golden == manifest.golden
    for variant in manifest.variants:
        engine = load_engine(version_folder(artifact, tmp_path / variant.value, variant.value))
        try:  # as a probe asks
            assert ask(engine, manifest.golden[0].text, max_tokens=1)["choices"]
        finally:
            engine.close()


HEADS: dict[str, tuple[Tokenizer | None, dict[str, Any]]] = {
    "context 2": (None, {"n_positions": 2}),
    "context 11": (None, {"n_positions": 11}),
    "without letters": (letters("0123"), {"n_positions": 11}),
    "one token": (letters("0"), {"vocab_size": 1}),
    "no end of text and no padding": (None, {"eos_token_id": None, "pad_token_id": None}),
}


@pytest.mark.parametrize(("tokenizer", "changes"), HEADS.values(), ids=HEADS.keys())
def test_a_head_is_served(
    tokenizer: Tokenizer | None, changes: dict[str, Any], folder: Folder, tmp_path: Path
) -> None:
    artifact = exported(folder(save_classifier, tokenizer, **changes))
    manifest = Manifest.load(artifact)
    assert import_artifact(artifact, tmp_path / "imported").golden == manifest.golden
    for variant in manifest.variants:
        model = HeadModel.load(artifact, variant, threads=1)
        (answer,) = model.run([HeadInput(manifest.golden[0].text)])
        assert isinstance(answer, HeadAnswer)


def test_control_tokens_in_a_calibration_text_are_read_as_served(folder: Folder, tmp_path: Path) -> None:
    checkpoint = folder(save_classifier)
    (tmp_path / "text").write_text("the cat<|endoftext|>\n", "utf-8")
    artifact = tmp_path / "artifact"
    export_checkpoint(checkpoint, artifact, name="x", variants=[Variant.FP32], calibration=tmp_path / "text")
    HeadModel.load(artifact, Variant.FP32, threads=1)


def test_without_an_end_of_text_nothing_is_scored_from_the_start(folder: Folder, tmp_path: Path) -> None:
    artifact = exported(folder(save_lm, eos_token_id=None, pad_token_id=None))
    engine = load_engine(version_folder(artifact, tmp_path / "1"))
    try:
        assert len(ask(engine, "the cat", max_tokens=40)["choices"][0]["token_ids"]) == 40
        assert ask(engine, "the", Operation.SCORE, continuations=[" cat"])["scores"]
        with pytest.raises(RequestFault, match="this model has no end-of-text token"):
            ask(engine, "", Operation.SCORE, continuations=["the cat"])
    finally:
        engine.close()


def decoded_by(decoder: Any) -> Tokenizer:
    tokenizer = letters("abcd")
    tokenizer.decoder = decoder
    return tokenizer


REFUSED: dict[str, tuple[Tokenizer | None, dict[str, Any], str]] = {
    "another decoder": (decoded_by(decoders.Metaspace()), {}, "tokenizer.json: decoder: 'Metaspace'"),
    "no text": (letters("", zz=0), {}, "tokenizer.json: no text becomes a token"),
    "one position": (None, {"n_positions": 1}, "n_positions: '1': a whole number from 2"),
    "a tokenizer that is larger": (letters("abcd", zz=300), {}, "beyond vocab_size 300"),
}


@pytest.mark.parametrize(("tokenizer", "changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_served_is_refused(
    tokenizer: Tokenizer | None, changes: dict[str, Any], message: str, folder: Folder, tmp_path: Path
) -> None:
    checkpoint = folder(save_lm, tokenizer, **changes)
    why = problem(checkpoint)
    assert why is not None
    assert message in why
    with pytest.raises(CheckpointError) as caught:
        export_checkpoint(checkpoint, tmp_path / "out", name="x", variants=[Variant.FP32])
    assert caught.value.message == why


def test_an_adapter_is_refused_by_both(folder: Folder, tmp_path: Path) -> None:
    checkpoint = folder(save_lm)
    (checkpoint / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}), "utf-8")
    why = problem(checkpoint)
    with pytest.raises(CheckpointError, match="an adapter; `lmaas export BASE --adapter FOLDER`") as caught:
        export_checkpoint(checkpoint, tmp_path / "out", name="x", variants=[Variant.FP32])
    assert caught.value.message == why
