"""Verification: results and messages of the references for a sound export and for a broken one."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from export.__main__ import main
from export.checkpoint.config import ModelConfig, read_config
from export.errors import ExportError
from export.pipeline import export_checkpoint
from export.progress import Progress
from export.session import Floats
from export.verification.answers import Answer
from export.verification.oracles import NumpyOracle, OptimumOracle, Oracle, TransformersOracle, Unavailable
from export.verification.verify import (
    COLUMNS,
    LIMIT,
    Verification,
    check_verifiable,
    compare,
    require_passed,
    verification_rows,
    verification_summary,
    verify,
)
from runtime.contract import Variant
from tests.export.checkpoints import save_classifier, save_lm, save_nlu

ROOT = Path(__file__).resolve().parents[3]
PROMPTS, TOKENS = 6, 10
TORCH = ("torch", "transformers", "optimum")


def run(checkpoint: Path, artifact: Path) -> list[Verification]:
    return verify(checkpoint, artifact, prompts=PROMPTS, tokens=TOKENS)


def export(checkpoint: Path, artifact: Path) -> Path:
    export_checkpoint(checkpoint, artifact, name="x", variants=[Variant.FP32])
    return artifact


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if they were not installed, though parts of them are imported by now."""
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        monkeypatch.delitem(sys.modules, name)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize("kind", ["lm", "classifier", "tagger", "nlu"])
def test_every_head_is_compared_with_two_references(
    kind: str, checkpoint: Callable[[str], Path], artifact: Callable[[str], Path]
) -> None:
    transformers, optimum, own = run(checkpoint(kind), artifact(kind))
    assert transformers.reference.startswith("transformers 4.")
    assert f"on torch {torch.__version__}" in transformers.reference
    if kind == "nlu":
        assert optimum.note == "not run: it has no export of GPT2ForJointNlu"
        assert own.reference.startswith("NumPy")
    else:
        assert optimum.reference.startswith("optimum 2.")
        assert own.note == "not run: it stands in for one that is missing"
    ran = [row for row in (transformers, optimum, own) if row.ran]
    assert len(ran) == 2
    for row in ran:
        assert row.passed
        assert (row.texts, row.agreeing, row.tied) == (PROMPTS, PROMPTS, 0)
        assert 0 < row.max_logit_difference <= 1e-5
    require_passed([transformers, optimum, own])


@pytest.mark.parametrize("kind", ["reader", "joint_reader"])
def test_only_numpy_knows_our_own_parts(
    kind: str, checkpoint: Callable[[str], Path], artifact: Callable[[str], Path]
) -> None:
    transformers, optimum, own = run(checkpoint(kind), artifact(kind))
    assert transformers.note == "not run: its attention is causal"
    assert optimum.note.startswith("not run: it")
    assert (own.passed, own.agreeing) == (True, PROMPTS)


@pytest.mark.parametrize(
    "flags",
    [
        {"tie_word_embeddings": False},
        {"activation_function": "gelu"},
        {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
        {"scale_attn_weights": False},
        {"n_embd": 30, "n_head": 6, "n_positions": 12},
        {"n_positions": 2},
    ],
)
def test_references_know_every_flag(flags: dict[str, Any], tmp_path: Path) -> None:
    save_lm(tmp_path / "checkpoint", **flags)
    rows = run(tmp_path / "checkpoint", export(tmp_path / "checkpoint", tmp_path / "out"))
    assert [row.passed for row in rows] == [True, True, False]
    assert [row.ran for row in rows] == [True, True, False]


@pytest.mark.parametrize(
    "changes",
    [
        {"num_labels": 1},
        {"num_labels": 4, "problem_type": "multi_label_classification"},
        {"num_labels": 2, "problem_type": "regression"},
        {"num_labels": 3, "pad_token_id": None},
    ],
)
def test_every_problem_type(changes: dict[str, Any], tmp_path: Path) -> None:
    save_classifier(tmp_path / "checkpoint", **changes)
    rows = run(tmp_path / "checkpoint", export(tmp_path / "checkpoint", tmp_path / "out"))
    assert [row.passed for row in rows] == [True, True, False]


@pytest.mark.parametrize("kind", ["lm", "classifier", "tagger", "nlu"])
def test_numpy_alone_without_torch(
    kind: str,
    checkpoint: Callable[[str], Path],
    artifact: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch, *TORCH)
    transformers, optimum, own = run(checkpoint(kind), artifact(kind))
    assert transformers.note == "not run: torch is not installed"
    assert optimum.note.startswith("not run: optimum")
    assert own.passed
    assert own.agreeing == PROMPTS


def test_numpy_stands_in_for_optimum(
    checkpoint: Callable[[str], Path], artifact: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "optimum")
    transformers, optimum, own = run(checkpoint("lm"), artifact("lm"))
    assert [transformers.passed, optimum.ran, own.passed] == [True, False, True]


def test_an_export_that_optimum_cannot_make_is_told(
    checkpoint: Callable[[str], Path], artifact: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("no symbolic for aten::new\nand much more")

    monkeypatch.setattr("optimum.exporters.onnx.onnx_export_from_model", fail)
    _, optimum, own = run(checkpoint("tagger"), artifact("tagger"))
    assert optimum.note == "not run: its export failed: no symbolic for aten::new"
    assert own.passed


def test_a_checkpoint_that_transformers_does_not_load_is_reported(tmp_path: Path) -> None:
    """A head beside a body without its prefix."""
    save_nlu(tmp_path / "checkpoint", echo=False)
    path = tmp_path / "checkpoint" / "model.safetensors"
    save_file({name.removeprefix("transformer."): value for name, value in load_file(path).items()}, path)
    transformers, _, own = run(tmp_path / "checkpoint", export(tmp_path / "checkpoint", tmp_path / "out"))
    assert transformers.note.startswith("not run: transformers does not load it: ")
    assert own.passed


def test_a_weight_that_transformers_does_not_find_is_not_made_up(tmp_path: Path) -> None:
    save_classifier(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["scores.weight"] = tensors.pop("score.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(Unavailable, match=r"does not find score\.weight"):
        TransformersOracle(tmp_path, read_config(tmp_path))


@pytest.mark.parametrize("kind", ["lm", "classifier", "tagger", "nlu"])
def test_one_wrong_weight_is_found(
    kind: str, checkpoint: Callable[[str], Path], artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in checkpoint(kind).iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    tensors = load_file(other / "model.safetensors")
    tensors["transformer.h.1.mlp.c_fc.weight"][3, 5] += 1
    save_file(tensors, other / "model.safetensors")
    rows = run(other, artifact(kind))
    ran = [row for row in rows if row.ran]
    assert not any(row.passed for row in ran)
    assert all(row.max_logit_difference > 10 * LIMIT for row in ran)
    with pytest.raises(ExportError, match=r"verify: fp32 differs from transformers 4\S+ on torch") as caught:
        require_passed(rows)
    assert caught.value.field == "verify"


class Fixed(Oracle):
    """Answers what it was given."""

    title = "fixed"

    def __init__(self, logits: Floats) -> None:
        self._answer = logits

    def logits(self, ids: Sequence[int]) -> list[Floats]:
        return [self._answer]


def outcome(found: list[list[float]], expected: list[list[float]], config: ModelConfig) -> Verification:
    answer = Answer([0], [np.array(found, np.float32)])
    return compare(Fixed(np.array(expected, np.float32)), [answer], config, lambda share: None)


def test_outcomes_of_one_text(checkpoint: Callable[[str], Path]) -> None:
    config = read_config(checkpoint("lm"))
    same = outcome([[1, 2, 0]], [[1, 2, 0]], config)
    assert (same.agreeing, same.tied, same.passed) == (1, 0, True)
    near = outcome([[1, 1.0001, 0]], [[1.0001, 1, 0]], config)
    assert (near.agreeing, near.tied, near.passed) == (0, 1, True)
    apart = outcome([[1, 1.00015, 0]], [[1.00015, 0.9999, 0]], config)  # more than the limit apart
    assert (apart.agreeing, apart.tied, apart.passed) == (0, 0, False)
    far = outcome([[1, 2, 0]], [[1, 2.001, 0]], config)
    assert (far.agreeing, far.passed) == (1, False)
    later = outcome([[1, 1.0001], [0, 9]], [[1.0001, 1], [9, 0]], config)  # a tie excuses no other token
    assert (later.agreeing, later.tied) == (0, 0)
    lost = outcome([[1, 2]], [[np.nan, 2]], config)
    assert (lost.agreeing, lost.tied, lost.passed) == (0, 0, False)
    prompt = outcome([[1, 2]], [[9, 0], [1, 2]], config)  # rows that a language model did not choose by
    assert prompt.passed


def test_the_limit_grows_with_logits_beyond_those_of_small_models(checkpoint: Callable[[str], Path]) -> None:
    config = read_config(checkpoint("lm"))
    small = outcome([[31, -5.0003]], [[31, -5]], config)
    assert (small.limit, small.passed) == (LIMIT, False)
    large = outcome([[-128, -127.0003]], [[-128, -127]], config)
    assert large.limit == pytest.approx(4 * LIMIT)
    assert large.passed


def test_the_artifact_needs_fp32_and_its_own_checkpoint(
    checkpoint: Callable[[str], Path], artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    export_checkpoint(checkpoint("lm"), tmp_path / "int8", name="x", variants=[Variant.INT8])
    for folder, made, message in (
        (checkpoint("lm"), tmp_path / "int8", "only fp32 is compared with other models"),
        (checkpoint("nlu"), artifact("lm"), "not of this checkpoint: the kind differs"),
        (checkpoint("tagger"), artifact("nlu"), "not of this checkpoint: the labels differ"),
        (artifact("lm"), artifact("lm"), "the source is an artifact"),
    ):
        with pytest.raises(ExportError, match=f"verify: .*{message}") as caught:
            run(folder, made)
        assert caught.value.field == "verify"
    with pytest.raises(ExportError):
        check_verifiable([Variant.INT8])


def test_progress_names_the_references(
    checkpoint: Callable[[str], Path], artifact: Callable[[str], Path]
) -> None:
    seen: list[Progress] = []
    rows = verify(checkpoint("tagger"), artifact("tagger"), prompts=2, report=seen.append)
    require_passed(rows)
    assert [progress.stage for progress in seen if progress.share == 0] == [
        "answer",
        "compare with transformers",
        "compare with optimum",
        "compare with numpy",
        "done",
    ]


ROWS = [
    Verification("transformers 4 on torch 2", 50, 49, 1, 1.2e-5),
    Verification("optimum", note="not run: optimum is not installed"),
    Verification("NumPy 1 GPT-2", 50, 50, 0, 2e-5),
]


def test_rows_of_a_table() -> None:
    rows = verification_rows(ROWS)
    assert rows == [
        ("transformers 4 on torch 2", "1.2e-05", "49/50", "1 tied: logits less than 0.0002 apart"),
        ("optimum", "-", "-", "not run: optimum is not installed"),
        ("NumPy 1 GPT-2", "2.0e-05", "50/50", ""),
    ]
    assert {len(row) for row in rows} == {len(COLUMNS)}


def test_summary_is_one_line_of_what_was_run() -> None:
    assert verification_summary(ROWS).split("; ") == [
        "transformers 4 on torch 2: max logit difference 1.2e-05, same answers 49/50,"
        " 1 tied: logits less than 0.0002 apart",
        "NumPy 1 GPT-2: max logit difference 2.0e-05, same answers 50/50",
    ]


def test_a_row_that_was_not_run_is_no_failure() -> None:
    require_passed(ROWS)
    with pytest.raises(ExportError, match=r"NumPy 1 GPT-2: by up to 2e-05 .* 12 of 50 answers"):
        require_passed([*ROWS[:2], dataclasses.replace(ROWS[2], agreeing=12)])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command with torch only, because optimum is slow."""
    without(monkeypatch, "optimum")


@pytest.mark.usefixtures("quick")
def test_command_tells_each_reference(
    checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [str(checkpoint("classifier")), str(tmp_path / "out"), "--name", "x", "--verify"]
    assert main([*line, "--variants", "fp32", "--json-progress"]) == 0
    events = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert events[-1] == {"event": "done"}
    rows = [event for event in events if event["event"] == "verified"]
    assert [row["passed"] for row in rows] == [True, None, True]
    assert [row["texts"] for row in rows] == [50, 0, 50]
    assert rows[0]["message"].startswith("transformers 4.")
    assert main([*line, "--overwrite"]) == 0
    assert "same answers 50/50" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_command_fails_where_verification_does(
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("export.verification.verify.LIMIT", 1e-12)
    line = [str(checkpoint("classifier")), str(tmp_path / "out"), "--name", "x", "--verify"]
    assert main(line) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: verify: fp32 differs from transformers 4.")
    assert "done" not in output.out.splitlines()


def test_command_refuses_before_it_exports(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    line = [str(checkpoint("classifier")), str(tmp_path / "out"), "--name", "x", "--verify"]
    assert main([*line, "--variants", "int8"]) == 2
    assert not (tmp_path / "out").exists()


def test_importing_it_needs_no_torch() -> None:
    script = (
        f"import sys, export.verification.verify; print(*[name for name in {TORCH!r} if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.split() == []


def test_references_share_one_interface(checkpoint: Callable[[str], Path]) -> None:
    for kind, shapes in (("lm", [(3, 300)]), ("classifier", [(3,)]), ("tagger", [(3, 5)])):
        config = read_config(checkpoint(kind))
        for reference in (TransformersOracle, OptimumOracle, NumpyOracle):
            answer = reference(checkpoint(kind), config).logits([5, 6, 7])
            assert [logits.shape for logits in answer] == shapes
            assert {logits.dtype for logits in answer} == {np.dtype(np.float32)}
