"""A whole export: its output, its repeatability, and that it appears complete or not at all."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.archive import pack_folder
from export.errors import CheckpointError, ExportError
from export.output import new_folder
from export.pipeline import export_checkpoint
from export.progress import Progress
from export.session import log_softmax
from export.verification import numpy_gpt2 as oracle
from runtime.contract import Kind, Variant
from runtime.manifest import Manifest
from tests.export.checkpoints import open_session, save_classifier, save_lm, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = (Variant.FP32, Variant.INT8)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "export", *map(str, arguments), "--name", "tiny", "--json-progress"]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_manifest_tells_what_is_there(artifact: Callable[[str], Path]) -> None:
    folder = artifact("lm")
    manifest = Manifest.load(folder)
    assert manifest.kind is Kind.LM
    assert manifest.architecture.context_length == 96
    assert manifest.architecture.head_size == 32
    listed = [manifest.tokenizer, *(file for entry in manifest.variants.values() for file in entry.files)]
    found = files(folder)
    assert set(found) == {file.path for file in listed} | {"manifest.json"}
    for file in listed:
        assert file.size == len(found[file.path])
        assert file.sha256 == hashlib.sha256(found[file.path]).hexdigest()


def test_golden_prompts_are_greedy(
    checkpoint: Callable[[str], Path], artifact: Callable[[str], Path]
) -> None:
    weights, config = oracle.load(checkpoint("lm"))
    manifest = Manifest.load(artifact("lm"))
    assert len(manifest.golden) == 4
    for prompt, answer in zip(manifest.golden, manifest.variants[Variant.FP32].golden, strict=True):
        ids = tiny_tokenizer().encode(prompt.text).ids
        tokens = oracle.greedy(weights, config, ids, 8)
        assert list(answer.token_ids) == tokens
        logits = oracle.lm_logits(weights, config, [*ids, *tokens])[len(ids) - 1 : -1]
        expected = log_softmax(logits.astype(np.float32))[np.arange(8), tokens]
        assert np.abs(np.array(answer.logprobs) - expected).max() <= 2e-4


@pytest.mark.parametrize("kind", ["classifier", "nlu"])
def test_golden_scores(kind: str, checkpoint: Callable[[str], Path], artifact: Callable[[str], Path]) -> None:
    weights, config = oracle.load(checkpoint(kind))
    manifest = Manifest.load(artifact(kind))
    assert len(manifest.golden) == 4
    for prompt, answer in zip(manifest.golden, manifest.variants[Variant.FP32].golden, strict=True):
        ids = tiny_tokenizer().encode(prompt.text).ids
        if kind == "nlu":
            expected = oracle.nlu_logits(weights, config, [*ids, 0, *ids])[0]
        else:
            expected = oracle.classifier_logits(weights, config, ids)
        assert np.abs(np.array(answer.scores) - expected).max() <= 2e-4


def test_exporting_twice_gives_the_same_bytes(
    checkpoint: Callable[[str], Path], artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    """All but the date and the load times."""
    export_checkpoint(checkpoint("lm"), tmp_path / "again", name="lm", variants=tuple(Variant))
    first, second = files(artifact("lm")), files(tmp_path / "again")
    manifests = [Manifest.from_json(found.pop("manifest.json")) for found in (first, second)]
    assert first == second
    for manifest in manifests:
        assert manifest.provenance.pop("date").endswith("+00:00")
        assert all(entry.load_seconds > 0 for entry in manifest.variants.values())
    assert timeless(manifests[0]) == timeless(manifests[1])


def timeless(manifest: Manifest) -> Manifest:
    entries = {
        variant: dataclasses.replace(entry, load_seconds=0.0) for variant, entry in manifest.variants.items()
    }
    return dataclasses.replace(manifest, variants=entries)


def test_progress_counts_to_the_end(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    seen: list[Progress] = []
    export_checkpoint(
        checkpoint("classifier"), tmp_path / "out", name="x", variants=VARIANTS, report=seen.append
    )
    stages = [
        "read",
        "build fp32",
        "write texts",
        "measure fp32",
        "calibrate int8",
        "build int8",
        "measure int8",
    ]
    begun = [progress for progress in seen if progress.share == 0]
    assert [progress.done for progress in begun] == list(range(seen[-1].total + 1))
    assert [progress.stage for progress in begun] == [*stages, "finish", "done"]
    places = [progress.done + progress.share for progress in seen]
    assert places == sorted(places)
    assert {progress.stage for progress in seen if progress.share == 1} >= {"build fp32", "measure int8"}


def test_an_existing_output_is_kept_unless_told(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_checkpoint(checkpoint("lm"), out, name="a", variants=[Variant.FP32])
    before = files(out)
    with pytest.raises(ExportError, match="out: exists already") as caught:
        export_checkpoint(checkpoint("lm"), out, name="b", variants=[Variant.FP32])
    assert caught.value.field == "output"
    assert files(out) == before
    export_checkpoint(checkpoint("lm"), out, name="b", variants=[Variant.FP32], overwrite=True)
    assert Manifest.load(out).name == "b"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("variants", [[], [Variant.FP32, Variant.FP32]])
def test_refuses_variants(variants: list[Variant], checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export_checkpoint(checkpoint("lm"), tmp_path / "out", name="x", variants=variants)
    assert caught.value.field == "variants"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    model = save_lm(tmp_path / "checkpoint")
    model.transformer.h[1].mlp.c_fc.weight.data[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match=r"h\.1\.mlp\.c_fc\.weight: holds NaN"):
        export_checkpoint(tmp_path / "checkpoint", tmp_path / "out", name="x", variants=VARIANTS)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_weights_too_large_to_compute_with(tmp_path: Path) -> None:
    model = save_lm(tmp_path / "checkpoint")
    model.transformer.h[1].mlp.c_fc.weight.data.mul_(1e38)
    model.transformer.h[1].mlp.c_proj.weight.data.mul_(1e38)
    model.save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="answers NaN or infinity"):
        export_checkpoint(tmp_path / "checkpoint", tmp_path / "out", name="x", variants=VARIANTS)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("context", [2, 3, 9])
@pytest.mark.parametrize("save", [save_lm, save_classifier])
def test_shortest_contexts(save: Callable[..., object], context: int, tmp_path: Path) -> None:
    save(tmp_path / "checkpoint", n_positions=context)
    manifest = export_checkpoint(tmp_path / "checkpoint", tmp_path / "out", name="x", variants=VARIANTS)
    assert manifest.variants[Variant.INT8].quality is not None


@pytest.mark.parametrize("stage", ["build int8", "write texts", "measure int8", "finish"])
def test_a_killed_run_leaves_no_output_and_the_next_one_cleans_up(
    stage: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from export.pipeline import export_checkpoint;"
        "from runtime.contract import Variant;"
        "die = lambda progress: progress.stage == sys.argv[3] and os.kill(os.getpid(), signal.SIGKILL);"
        "variants = [Variant.FP32, Variant.INT8];"
        "export_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), name='x', variants=variants, report=die)"
    )
    out = tmp_path / "out"
    line = [sys.executable, "-c", script, str(checkpoint("lm")), str(out), stage]
    assert subprocess.run(line, cwd=ROOT, timeout=60, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.new", ".out.new.lock"]
    export_checkpoint(checkpoint("lm"), out, name="x", variants=[Variant.FP32])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_run_killed_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / ".out.old").mkdir()
    (tmp_path / ".out.old" / "manifest.json").write_text("old", "utf-8")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert files(tmp_path / "out") == {"manifest.json": b"old"}


@pytest.mark.parametrize("taken", ["file", "link", "folder of others"])
def test_only_an_artifact_is_overwritten(
    taken: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    mine.mkdir()
    (mine / "precious.txt").write_text("mine", "utf-8")
    if taken == "file":
        out.write_text("mine", "utf-8")
    elif taken == "link":
        out.symlink_to(mine)
    else:
        mine.rename(out)
    with pytest.raises(ExportError, match=r"out: (exists, and is no folder|is no artifact)") as caught:
        export_checkpoint(checkpoint("lm"), out, name="x", variants=[Variant.FP32], overwrite=True)
    assert caught.value.field == "output"
    kept = {"file": out, "link": mine / "precious.txt", "folder of others": out / "precious.txt"}[taken]
    assert kept.read_text("utf-8") == "mine"


def test_two_runs_do_not_share_an_output(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with (tmp_path / ".out.new.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ExportError, match="another export is writing it"):
            export_checkpoint(checkpoint("lm"), tmp_path / "out", name="x", variants=VARIANTS)


@pytest.mark.parametrize("kind", ["checkpoint", "artifact"])
def test_command_reads_archives_of_both(
    kind: str, checkpoint: Callable[[str], Path], artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    source = checkpoint("lm") if kind == "checkpoint" else artifact("lm")
    pack_folder(source, tmp_path / "upload.zip")  # by content, not by name
    every = ",".join(variant.value for variant in Variant)
    ended = command(tmp_path / "upload.zip", tmp_path / "out", "--variants", every)
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, ended.stderr
    assert events[-1] == {"event": "done"}
    assert events[-2]["event"] == "progress"
    assert events[-2]["done"] == events[-2]["total"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "upload.zip"]
    graphs = {name: data for name, data in files(tmp_path / "out").items() if name != "manifest.json"}
    assert graphs == {name: data for name, data in files(artifact("lm")).items() if name != "manifest.json"}


def test_command_tells_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "upload").write_text("no archive", "utf-8")
    ended = command(tmp_path / "upload", tmp_path / "out")
    assert ended.returncode == 2
    (event,) = [json.loads(line) for line in ended.stdout.splitlines()]
    assert event["event"] == "error"
    assert event["field"] == "file"
    assert "not a sound .tar, .tar.gz, .tar.zst or .zip" in event["message"]
    assert ended.stderr == ""
    assert os.listdir(tmp_path) == ["upload"]


@pytest.mark.parametrize(
    ("arguments", "field"), [(["--variants", "fp32,int3"], "variants"), (["--variants", ""], "variants")]
)
def test_command_refuses_arguments(arguments: list[str], field: str, tmp_path: Path) -> None:
    ended = command(tmp_path, tmp_path / "out", *arguments)
    assert ended.returncode == 2
    assert json.loads(ended.stdout)["field"] == field


def test_source_that_is_not_there(tmp_path: Path) -> None:
    ended = command(tmp_path / "nothing", tmp_path / "out")
    assert ended.returncode == 2
    assert json.loads(ended.stdout)["message"] == "nothing: no such file or folder"


def test_graphs_load_without_the_exporter(artifact: Callable[[str], Path]) -> None:
    for variant in VARIANTS:
        assert (
            open_session(artifact("nlu") / variant.value / "model.onnx").get_outputs()[1].name
            == "slot_logits"
        )
