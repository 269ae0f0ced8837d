"""The first run of a ready-made graph: answers that are not the manifest's, and graphs that mean harm."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.errors import ArtifactError
from export.files import file_entry
from export.progress import Progress
from export.validation.artifact import import_artifact
from export.validation.dry_run import DryRunLimits, dry_run
from runtime.contract import Kind, Variant
from runtime.manifest import Manifest

ROOT = Path(__file__).resolve().parents[3]
GRAPH = "fp32/model.onnx"
Change = Callable[[onnx.ModelProto], object]


@pytest.fixture
def folder(artifact: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of an artifact, to be changed."""
    return lambda kind: Path(shutil.copytree(artifact(kind), tmp_path / "artifact"))


def only_fp32(folder: Path, change: Callable[[dict[str, Any]], object] = lambda data: None) -> Manifest:
    data = json.loads((folder / "manifest.json").read_text("utf-8"))
    data["variants"] = {"fp32": data["variants"]["fp32"]}
    data["variants"]["fp32"]["files"][0] = dataclasses.asdict(file_entry(folder, folder / GRAPH))
    change(data)
    (folder / "manifest.json").write_text(json.dumps(data), "utf-8")
    return Manifest.load(folder)


def change_graph(folder: Path, change: Change) -> None:
    model = onnx.load(folder / GRAPH)
    change(model)
    (folder / GRAPH).write_bytes(model.SerializeToString())
    only_fp32(folder)


def refuses(folder: Path, message: str, limits: DryRunLimits | None = None) -> None:
    with pytest.raises(ArtifactError) as caught:
        dry_run(folder, Variant.FP32, Manifest.load(folder), limits)
    assert message in caught.value.message
    assert caught.value.message.startswith(f"{GRAPH}: dry run: ")
    assert caught.value.field == GRAPH
    assert str(folder) not in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("kind", ["lm", "classifier", "tagger", "nlu"])
def test_sound_graphs_pass(kind: str, artifact: Callable[[str], Path]) -> None:
    manifest = Manifest.load(artifact(kind))
    assert manifest.golden
    for variant in Variant:
        dry_run(artifact(kind), variant, manifest)


def scale(name: str, factor: float) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(item for item in model.graph.initializer if item.name == name)
        tensor.raw_data = (numpy_helper.to_array(tensor) * np.float32(factor)).tobytes()

    return change


def answer(data: dict[str, Any]) -> Any:
    return data["variants"]["fp32"]["golden"][0]


def test_refuses_other_weights(folder: Callable[[str], Path]) -> None:
    copy = folder("lm")
    change_graph(copy, scale("h.1.mlp.c_proj.weight", 1.5))
    refuses(copy, "token 1 of 8 has the log-probability")


def test_refuses_other_tokens(folder: Callable[[str], Path]) -> None:
    copy = folder("lm")
    only_fp32(copy, lambda data: answer(data)["token_ids"].__setitem__(2, 150))
    refuses(copy, "token 3 of 8 is")
    refuses(copy, "but the manifest says 150, which is not among the 5 likeliest")


def test_refuses_other_probabilities(folder: Callable[[str], Path]) -> None:
    copy = folder("lm")
    only_fp32(copy, lambda data: answer(data)["logprobs"].__setitem__(0, -20.0))
    refuses(copy, "but the manifest says -20.0000, and at most 0.01 may lie between")


def test_refuses_prompts_that_do_not_fit(folder: Callable[[str], Path]) -> None:
    copy = folder("lm")
    only_fp32(copy, lambda data: data["golden"][0].update(text="the cat " * 50))
    refuses(copy, "the model cannot read it: it is empty, or longer than its context")
    only_fp32(copy, lambda data: data["golden"][0].update(text="q" * 90))
    refuses(copy, "8 more tokens do not fit the context")
    only_fp32(copy, lambda data: data["golden"][0].update(text=""))
    refuses(copy, "golden prompt '': the model cannot read it")


@pytest.mark.parametrize(
    ("kind", "scores"), [("classifier", "scores"), ("nlu", "scores"), ("nlu", "slot_scores")]
)
def test_refuses_other_scores(kind: str, scores: str, folder: Callable[[str], Path]) -> None:
    copy = folder(kind)
    only_fp32(copy, lambda data: answer(data)[scores].__setitem__(0, 30.0))
    refuses(copy, "score is off by")
    only_fp32(copy, lambda data: answer(data)[scores].append(1.0))
    refuses(copy, "in the manifest")


@pytest.mark.parametrize("score", [np.nan, np.inf, 3e38, -10_001])
def test_refuses_transitions_that_are_no_scores(folder: Callable[[str], Path], score: float) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        tensors = model.graph.initializer
        table = next(tensor for tensor in tensors if tensor.name == "slot_transitions.weight")
        table.raw_data = np.full(table.dims, score, np.float32).tobytes()

    copy = folder("joint_reader")
    change_graph(copy, spoil)
    refuses(copy, "slot_transitions: not all scores are numbers from -10000 to 10000")


def test_refuses_texts_that_no_head_reads(folder: Callable[[str], Path]) -> None:
    copy = folder("nlu")
    only_fp32(copy, lambda data: data["golden"][0].update(text="the cat " * 30))
    refuses(copy, "the model cannot read it: it is empty, or longer than its context")


@pytest.mark.parametrize("kind", ["lm", "classifier"])
def test_refuses_answers_that_are_no_numbers(kind: str, folder: Callable[[str], Path]) -> None:
    copy = folder(kind)
    change_graph(copy, scale("h.1.ln_2.bias", float("nan")))
    refuses(copy, "the graph answers NaN or infinity")


def after_logits(*nodes: onnx.NodeProto, **constants: list[int]) -> Change:
    """What `nodes` make of `constants` as `y` is added to the logits."""

    def change(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if node.op_type == "Gemm").output[0] = "x"
        model.graph.node.extend([*nodes, helper.make_node("Add", ["x", "y"], ["logits"])])
        for name, values in constants.items():
            model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))

    return change


def constant_of_shape(shape: str, output: str) -> list[onnx.NodeProto]:
    value = helper.make_tensor("value", TensorProto.UINT8, [1], [1])
    return [
        helper.make_node("ConstantOfShape", [shape], [f"{output}.bytes"], value=value),
        helper.make_node("Cast", [f"{output}.bytes"], [output], to=TensorProto.FLOAT),
    ]


def test_refuses_graphs_that_take_all_memory(folder: Callable[[str], Path]) -> None:
    copy = folder("lm")
    maximum = helper.make_node("ReduceMax", ["large"], ["y"])
    change_graph(copy, after_logits(*constant_of_shape("shape", "large"), maximum, shape=[1 << 34]))
    expected = DryRunLimits.of(Manifest.load(copy), Variant.FP32).data_bytes
    refuses(copy, f"needs more than {expected} bytes of memory")


def endless(model: onnx.ModelProto) -> None:
    """Products that take minutes on any processor, in each run: their shape depends on the input."""
    nodes = [helper.make_node("Shape", ["input_ids"], ["batch"], start=0, end=1)]
    nodes += [helper.make_node("Mul", ["batch", "side"], ["sides"])]
    nodes += constant_of_shape("sides", "x0")
    for number in range(30):
        nodes.append(helper.make_node("MatMul", [f"x{number}", f"x{number}"], [f"x{number + 1}"]))
    nodes.append(helper.make_node("ReduceMax", ["x30"], ["largest"]))
    nodes.append(helper.make_node("Mul", ["largest", "zero"], ["y"]))
    after_logits(*nodes, side=[600, 600])(model)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))


def test_refuses_graphs_without_end(folder: Callable[[str], Path]) -> None:
    copy = folder("lm")
    change_graph(copy, endless)
    refuses(copy, "took longer than 2 s", DryRunLimits(data_bytes=1 << 30, seconds=2))


def test_processor_time_is_bounded_too(folder: Callable[[str], Path]) -> None:
    """Should the parent die, nobody looks at the clock."""
    copy = folder("lm")
    change_graph(copy, endless)
    line = [
        sys.executable,
        "-m",
        "export.validation.dry_run",
        copy,
        "fp32",
        "--data-bytes",
        1 << 30,
        "--cpu-seconds",
        1,
    ]
    ended = subprocess.run(list(map(str, line)), cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGXCPU


def test_refuses_what_onnxruntime_refuses(folder: Callable[[str], Path]) -> None:
    copy = folder("lm")
    change_graph(copy, after_logits(helper.make_node("MatMul", ["x", "x"], ["y"])))
    refuses(copy, "cannot be run: RuntimeError: Error in execution")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -SEGV $$", "died of SIGSEGV"),
        ("echo first >&2; echo last >&2; exit 7", "ended with status 7 last"),
        ("echo no JSON", "ended with status 0"),
        ("echo memory allocation of 99 bytes failed >&2; kill -ABRT $$", "bytes of memory"),
        ("kill -XCPU $$", "took more processor time than it may"),
        ('echo noise >&2; echo \'{"problem": "found"}\'', "dry run: found"),
        ("cat; sleep 0; exit 3", "ended with status 3"),
    ],
)
def test_every_end_is_told(
    script: str,
    message: str,
    artifact: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also one by a defect of onnxruntime; no input waits for a terminal."""
    (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    refuses(artifact("lm"), message)


def test_limits_grow_with_the_model(artifact: Callable[[str], Path]) -> None:
    manifest = Manifest.load(artifact("lm"))
    assert manifest.kind is Kind.LM
    fp32, int4 = (DryRunLimits.of(manifest, variant) for variant in (Variant.FP32, Variant.INT4))
    sizes = [manifest.variants[variant].size for variant in (Variant.FP32, Variant.INT4)]
    assert fp32.data_bytes - int4.data_bytes == 3 * (sizes[0] - sizes[1])
    assert fp32.seconds > int4.seconds > 60


def test_nothing_is_left_and_the_stage_is_told(folder: Callable[[str], Path], tmp_path: Path) -> None:
    copy = folder("lm")
    change_graph(copy, scale("h.1.mlp.c_proj.weight", 1.5))
    (tmp_path / "outputs").mkdir()
    seen: list[Progress] = []
    with pytest.raises(ArtifactError, match="dry run"):
        import_artifact(copy, tmp_path / "outputs" / "out", report=seen.append)
    assert os.listdir(tmp_path / "outputs") == []
    assert [progress.stage for progress in seen] == ["check manifest", "copy", "check graphs", "dry run"]
