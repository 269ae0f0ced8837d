"""Facts about checkpoints, artifacts and their files, also where they are damaged or hostile."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from export.archive import pack_folder
from export.checkpoint.config import read_config
from export.checkpoint.folder import Checkpoint
from export.errors import ExportError
from export.inspection import graph as graph_module
from export.inspection.artifact import ArtifactFacts
from export.inspection.checkpoint import CheckpointFacts, ModelFacts, TokenizerFacts
from export.inspection.graph import ExternalFacts, GraphFacts
from export.inspection.inspect import Facts, inspect_path
from export.inspection.sizes import variant_sizes
from export.inspection.tensors import TensorFacts, WeightFacts
from export.members import ArchiveLimits
from runtime.contract import Variant
from runtime.manifest import Manifest
from tests.export.checkpoints import save_lm


def look(path: Path) -> Facts:
    return inspect_path(path, ArchiveLimits())


def checkpoint_facts(path: Path) -> CheckpointFacts:
    facts = look(path)
    assert isinstance(facts, CheckpointFacts)
    return facts


def artifact_facts(path: Path) -> ArtifactFacts:
    facts = look(path)
    assert isinstance(facts, ArtifactFacts)
    return facts


def graph_facts(path: Path) -> GraphFacts:
    facts = look(path)
    assert isinstance(facts, GraphFacts)
    return facts


def test_a_language_model(checkpoint: Callable[[str], Path]) -> None:
    facts = checkpoint_facts(checkpoint("lm"))
    assert facts.problem is None
    assert (facts.name, facts.architecture) == ("lm", "GPT2LMHeadModel")
    shape = facts.dimensions
    assert (shape.layers, shape.width, shape.heads, shape.context, shape.vocabulary) == (2, 64, 2, 96, 300)
    assert facts.tokenizer == TokenizerFacts(("tokenizer.json",), 290, {"<|endoftext|>": 0})
    assert facts.weights is not None
    assert list(facts.weights.sizes) == ["F32"]
    assert facts.weights.metadata == {"format": "pt"}
    assert facts.model is not None
    assert facts.model.parameters == facts.weights.parameters
    assert (facts.model.kind, facts.model.unusual) == ("lm", ())
    sizes = {file.name: file.size for file in facts.files}
    assert sizes["model.safetensors"] == (checkpoint("lm") / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("changes", "parameters", "cache"),
    [
        ({}, 124_439_808, 73_728),
        ({"n_layer": 24, "n_embd": 1024, "n_head": 16}, 354_823_168, 196_608),
        ({"n_layer": 48, "n_embd": 1600, "n_head": 25}, 1_557_611_200, 614_400),
    ],
)
def test_the_published_sizes_of_gpt2(
    changes: dict[str, int], parameters: int, cache: int, tmp_path: Path
) -> None:
    config = {"architectures": ["GPT2LMHeadModel"], **changes}
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    model = checkpoint_facts(tmp_path).model
    assert model is not None
    assert model.parameters == parameters
    assert model.cache_sizes == {"fp32": cache, "fp16": cache // 2, "int8": cache, "int4": cache}


@pytest.mark.parametrize("kind", ["lm", "classifier", "tagger", "nlu"])
def test_variants_are_as_large_as_estimated(
    kind: str, checkpoint: Callable[[str], Path], artifact: Callable[[str], Path]
) -> None:
    expected = variant_sizes(read_config(checkpoint(kind)))
    for variant, entry in Manifest.load(artifact(kind)).variants.items():
        nodes = entry.size - expected[variant]
        assert -0.01 * expected[variant] < nodes < 50_000, variant


def test_heads_have_labels_and_no_cache(checkpoint: Callable[[str], Path]) -> None:
    nlu, classifier = (checkpoint_facts(checkpoint(kind)).model for kind in ("nlu", "classifier"))
    assert nlu is not None
    assert classifier is not None
    assert (nlu.kind, nlu.labels, nlu.slot_labels[:2]) == ("nlu", ("play", "book", "rate"), ("O", "B-artist"))
    assert nlu.unusual == ("it reads a text twice, and tags the second copy (nlu_echo)",)
    assert classifier.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert nlu.cache_sizes == classifier.cache_sizes == {}


def test_what_is_unusual(checkpoint: Callable[[str], Path]) -> None:
    config = replace(
        read_config(checkpoint("lm")),
        num_heads=16,
        layer_heads=(16, 3),
        scale_attention=False,
        scale_by_layer=True,
        tied=False,
        inner_size=100,
        layer_neurons=(40, 100),
        layer_norm_epsilon=1e-6,
    )
    assert [text.rpartition("(")[2].rstrip(")") for text in ModelFacts.of(config).unusual] == [
        "scale_attn_weights",
        "scale_attn_by_inverse_layer_idx",
        "tie_word_embeddings",
        "n_inner",
        "layer_heads",
        "layer_neurons",
        "layer_norm_epsilon",
        "heads of 4 are served as heads of 8",
    ]


def test_a_model_of_another_family(tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "vocab_size": "x",
    }
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    facts = checkpoint_facts(tmp_path / "config.json")
    assert facts.architecture == "LlamaForCausalLM"
    assert (facts.dimensions.layers, facts.dimensions.width, facts.dimensions.vocabulary) == (3, 32, None)
    assert facts.model is None
    assert str(facts.problem).startswith("config.json: architectures:")


@pytest.mark.parametrize(
    ("damage", "lost", "problem"),
    [
        ("config.json", ["model", "tokenizer"], "config.json: not JSON"),
        ("model.safetensors", ["weights"], "model.safetensors: not a sound safetensors file"),
        ("tokenizer.json", ["tokenizer"], "tokenizer.json: not JSON"),
    ],
)
def test_a_damaged_part_does_not_hide_the_others(
    damage: str, lost: list[str], problem: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(checkpoint("lm"), tmp_path / "lm")
    (tmp_path / "lm" / damage).write_bytes(b"\x80\x02 no such thing"[2:])
    facts = checkpoint_facts(tmp_path / "lm")
    assert [part for part in ("model", "weights", "tokenizer") if getattr(facts, part) is None] == lost
    assert str(facts.problem).startswith(problem)


def test_a_problem_is_what_an_export_says(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint("lm") / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(ExportError) as caught:
        Checkpoint.open(tmp_path)
    assert checkpoint_facts(tmp_path).problem == caught.value.message
    assert "pickles are not opened" in caught.value.message


def test_sharded_weights(tmp_path: Path) -> None:
    model = save_lm(tmp_path / "sharded")
    whole = checkpoint_facts(tmp_path / "sharded").weights
    (tmp_path / "sharded" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    facts = checkpoint_facts(tmp_path / "sharded" / "model.safetensors.index.json")
    assert facts.problem is None
    assert facts.weights is not None
    assert whole is not None
    assert facts.weights.sizes == whole.sizes
    assert facts.weights.tensors == whole.tensors


@pytest.mark.parametrize("weight_map", [{"wte.weight": "../secret.safetensors"}, {"wte.weight": 3}, [], None])
def test_an_index_names_only_files_of_its_folder(weight_map: Any, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret.safetensors").write_bytes(b"not to be read")
    index = json.dumps({"weight_map": weight_map})
    (tmp_path / "folder" / "model.safetensors.index.json").write_text(index, "utf-8")
    (tmp_path / "folder" / "config.json").write_text("{}", "utf-8")
    assert checkpoint_facts(tmp_path / "folder").weights is None


def test_an_artifact(artifact: Callable[[str], Path]) -> None:
    facts = artifact_facts(artifact("lm"))
    manifest = Manifest.load(artifact("lm"))
    assert (facts.model, facts.kind, facts.golden_prompts, facts.problems) == ("lm", "lm", 4, ())
    assert facts.architecture == manifest.architecture
    assert facts.variants["int8"].quality == manifest.variants[Variant.INT8].quality
    assert facts.variants["int8"].size == manifest.variants[Variant.INT8].size
    assert facts.variants["int8"].files == manifest.variants[Variant.INT8].files
    assert facts.cache_sizes["fp16"] * 2 == facts.cache_sizes["int4"] == 2 * 2 * 64 * 4
    assert artifact_facts(artifact("lm") / "manifest.json") == facts


def test_files_that_are_not_those_of_the_manifest(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(artifact("lm"), folder)
    data = bytearray((folder / "fp32" / "model.onnx").read_bytes())
    data[-1] ^= 1
    (folder / "fp32" / "model.onnx").write_bytes(data)
    (folder / "fp16" / "model.onnx").write_bytes(b"short")
    (folder / "int8" / "model.onnx").unlink()
    (folder / "int4" / "model.onnx").unlink()
    os.mkfifo(folder / "int4" / "model.onnx")
    problems = {problem.partition(": ")[0]: problem for problem in artifact_facts(folder).problems}
    assert re.search(
        "sha256 is [0-9a-f]{64}, but the manifest says '[0-9a-f]{64}'$", problems["fp32/model.onnx"]
    )
    assert "size is 5, but the manifest says" in problems["fp16/model.onnx"]
    assert problems["int8/model.onnx"].endswith("missing")
    assert problems["int4/model.onnx"].endswith("a pipe, but a plain file is needed")


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("../secret", "../secret: leads out of the artifact"),
        ("/etc/passwd", "/etc/passwd: leads out of the artifact"),
        ("link/secret", "link: a link, but an artifact has none"),
    ],
)
def test_a_manifest_names_only_files_of_its_folder(
    path: str, problem: str, artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(artifact("classifier"), folder)
    (tmp_path / "secret").write_text("secret", "utf-8")
    (folder / "link").symlink_to(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["variants"]["fp32"]["files"][0]["path"] = path
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    assert artifact_facts(folder).problems == (problem,)


@pytest.mark.parametrize("kind", ["checkpoint", "artifact"])
def test_an_archive_is_what_is_in_it(
    kind: str, checkpoint: Callable[[str], Path], artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    source = checkpoint("tagger") if kind == "checkpoint" else artifact("tagger")
    pack_folder(source, tmp_path / "packed.tar.gz")
    facts = look(tmp_path / "packed.tar.gz")
    assert isinstance(facts, CheckpointFacts | ArtifactFacts)
    assert facts == replace(look(source), name="packed.tar.gz")


def test_a_single_file_of_weights(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    tensors = {"small": np.zeros((2, 3), np.float32), "large": np.zeros(50, np.float16)}
    save_file(tensors, tmp_path / "some.safetensors", {"format": "np", "step": "7"})
    assert look(tmp_path / "some.safetensors") == WeightFacts(
        name="some.safetensors",
        tensors=2,
        parameters=56,
        sizes={"F16": 100, "F32": 24},
        largest=(TensorFacts("large", (50,), "F16", 100), TensorFacts("small", (2, 3), "F32", 24)),
        metadata={"format": "np", "step": "7"},
    )


def test_a_graph_of_ours(artifact: Callable[[str], Path]) -> None:
    facts = graph_facts(artifact("lm") / "int8" / "model.onnx")
    assert facts.producer == "lmaas"
    assert facts.opsets == {"ai.onnx": 21, "com.microsoft": 1}
    assert facts.operators["com.microsoft"]["GroupQueryAttention"] == 2
    assert facts.inputs[0] == graph_module.ValueFacts("input_ids", "INT64", ("batch", "sequence"))
    assert facts.outputs[0] == graph_module.ValueFacts("logits", "FLOAT", ("rows", 300))
    assert facts.weights["INT8"] == 300 * 64 + 2 * 12 * 64 * 64
    assert facts.external == ()


def foreign_graph(**changes: Any) -> onnx.ModelProto:
    """An If within an If, a function, a sequence for output, and weights in other files."""
    inner = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "inner", [], [])
    branches = {"then_branch": inner, "else_branch": inner}
    middle = helper.make_graph([helper.make_node("If", ["c"], ["y"], **branches)], "middle", [], [])
    branches = {"then_branch": middle, "else_branch": inner}
    outside = TensorProto(name="w", data_type=TensorProto.INT4, dims=[3, 3])
    outside.data_location = TensorProto.EXTERNAL
    places = ("weights.data", "absent.data", "../secret", "/etc/passwd", "nul\0")
    for place in places:
        outside.external_data.add(key="location", value=place)
    graph = helper.make_graph(
        [
            helper.make_node("If", ["c"], ["y"], **branches),
            helper.make_node("Own", ["y"], ["z"], domain="me"),
        ],
        "outer",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, None)],
        [helper.make_tensor_sequence_value_info("z", TensorProto.FLOAT, ["n", None])],
        [outside],
    )
    function = helper.make_function(
        "me", "Own", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 21)]
    )
    return helper.make_model(graph, functions=[function], producer_name="someone", **changes)


def test_a_graph_of_another_maker(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret", "utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights.data").write_bytes(b"12345")
    (tmp_path / "folder" / "foreign.onnx").write_bytes(foreign_graph().SerializeToString())
    facts = graph_facts(tmp_path / "folder" / "foreign.onnx")
    assert facts.operators == {"ai.onnx": {"Abs": 3, "If": 2, "Neg": 1}, "me": {"Own": 1}}
    assert facts.inputs == (graph_module.ValueFacts("c", "BOOL", None),)
    assert facts.outputs == (graph_module.ValueFacts("z", "sequence", None),)
    assert (facts.parameters, facts.weights) == (9, {"INT4": 5})
    sizes = dict.fromkeys(("../secret", "/etc/passwd", "absent.data", "nul\0"), None) | {"weights.data": 5}
    assert facts.external == tuple(ExternalFacts(name, size) for name, size in sorted(sizes.items()))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no graph in it"),
        (b"no graph", "not an ONNX graph"),
        (b"\x3a\x80\x80\x80\x01" + b"\x0a\x00" * (1 << 20), "more than"),
    ],
)
def test_no_graph(data: bytes, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "MAX_FIELDS", 1000)
    (tmp_path / "bad.onnx").write_bytes(data)
    with pytest.raises(ExportError, match=why) as caught:
        look(tmp_path / "bad.onnx")
    assert caught.value.field == "source"


def test_a_file_too_large_for_a_graph_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(1 << 31)
    with pytest.raises(ExportError, match="a protocol buffer has at most 2147483647"):
        look(tmp_path / "large.onnx")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_graphs_are_described_or_refused(changes: list[tuple[int, int]], tmp_path: Path) -> None:
    data = bytearray(foreign_graph().SerializeToString())
    for position, value in changes:
        data[position % len(data)] = value
    (tmp_path / "damaged.onnx").write_bytes(data)
    with suppress(ExportError):
        json.dumps(asdict(look(tmp_path / "damaged.onnx")))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("weights.bin", b"", "weights.bin: pickles are not opened; convert it where you trust it: python"),
        ("weights.pt", b"", "pickles are not opened"),
        ("notes.txt", b"text", "notes.txt: archive: not a sound .tar, .tar.gz, .tar.zst or .zip archive"),
        ("bad.safetensors", b"", "bad.safetensors: not a sound safetensors file"),
        ("manifest.json", b"{}", "manifest.name: missing"),
        ("manifest.json", b"[", "manifest.json: not JSON"),
    ],
)
def test_what_is_nothing_of_ours(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError) as caught:
        look(tmp_path / name)
    assert expected in caught.value.message


def test_places_that_hold_nothing(tmp_path: Path) -> None:
    for path, expected in (
        (tmp_path, "no checkpoint (config.json) and no artifact (manifest.json) in this folder"),
        (tmp_path / "nothing", "nothing: no such file or folder"),
        (tmp_path / "pipe", "pipe: a pipe, but a plain file is needed"),
    ):
        if path.name == "pipe":
            os.mkfifo(path)
        with pytest.raises(ExportError) as caught:
            look(path)
        assert expected in caught.value.message
