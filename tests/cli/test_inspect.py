"""`lmaas inspect` as its user sees it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from export.archive import pack_folder
from export.members import ArchiveLimits
from export.source import export_source
from lmaas import app
from runtime.contract import Variant

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"


def inspect(path: Path | str, *options: str) -> Result:
    return CliRunner().invoke(app, ["inspect", str(path), *options])


def report(path: Path | str, status: int = 0) -> tuple[str, dict[str, str], str]:
    """The first line, the facts by their labels, and all of it."""
    ended = inspect(path)
    assert ended.exit_code == status, ended.output
    facts = re.findall(r"^  (\S.*?) {2,}(.*)$", ended.stdout, re.MULTILINE)
    return ended.stdout.splitlines()[0], dict(facts), ended.stdout


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("artifacts") / "nli"
    export_source(
        MODELS / "mini-nli",
        output,
        name="mini-nli",
        variants=[Variant.INT8, Variant.FP32],
        overwrite=False,
        limits=ArchiveLimits(),
    )
    return output


def test_a_language_model() -> None:
    first, facts, text = report(MODELS / "mini-lm")
    assert first == "mini-lm: a checkpoint of a language model (kind lm)"
    assert facts["architecture"] == "GPT2LMHeadModel, 4 layers, 192 wide, 3 heads"
    assert facts["parameters"] == "2.7 M"
    assert facts["context"] == "512 tokens"
    assert facts["tokenizer"] == "tokenizer.json: 4,096 tokens; special: <|endoftext|> (0)"
    assert facts["weights"] == "52 tensors, 5.3 MB of float16"
    assert facts["KV cache"] == "6.1 kB for a token, 3.1 MB for 512 of them; in fp16 3.1 kB and 1.6 MB"
    assert facts["variants"] == "fp32 10.7 MB, fp16 5.5 MB, int8 3.0 MB, int4 2.2 MB (estimated)"
    assert "model.safetensors (5.3 MB)" in facts["files"]
    assert text.endswith(f"\n\nLMaaS can export it: lmaas export {MODELS / 'mini-lm'} -o ARTIFACT\n")


def test_a_model_with_heads() -> None:
    first, facts, text = report(MODELS / "mini-nlu" / "config.json")
    assert first == "mini-nlu: a checkpoint of a model of intents and slots (kind nlu)"
    assert facts["labels"].startswith("AddToPlaylist, BookRestaurant, ")
    assert facts["slot labels"].endswith("B-facility and 60 more")
    assert facts["unusual"] == (
        "attention reads both sides of a token (attention bidirectional);"
        " a slot tag is also scored by the tag before it (slot_transitions)"
    )
    assert "KV cache" not in facts
    assert text.endswith(f"lmaas export {MODELS / 'mini-nlu'} -o ARTIFACT\n")


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 2,
        "hidden_size": 8,
        "vocab_size": 32000,
    }
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    first, facts, text = report(tmp_path, status=1)
    assert inspect(tmp_path, "--json").exit_code == 1
    assert first == f"{tmp_path.name}: a checkpoint"
    assert facts["architecture"] == "LlamaForCausalLM, 2 layers, 8 wide"
    assert facts["vocabulary"] == "32,000 tokens"
    assert "\n\nLMaaS cannot export it: config.json: architectures: " in text


def test_an_artifact(artifact: Path, tmp_path: Path) -> None:
    first, facts, text = report(artifact)
    assert first == "nli: an artifact of a text classifier (kind classifier), named mini-nli"
    assert re.search(r"^ fp32 +8\.7 MB +\d\.\d\d s *\n int8 +3\.7 MB .* labels [0-9.]+ % ", text, re.M)
    assert facts["labels"] == "entailment, neutral, contradiction"
    assert facts["golden prompts"] == "4, answered by each variant"
    assert facts["files"].startswith("fp32/model.onnx (8.7 MB), int8/model.onnx (3.7 MB), tokenizer.json (")
    assert "source mini-nli" in facts["provenance"]
    assert text.endswith("\n\nAll 3 files are those of the manifest.\n")
    pack_folder(artifact, tmp_path / "packed.tar.gz")
    packed = inspect(tmp_path / "packed.tar.gz").stdout
    assert packed == text.replace("nli: an artifact", "packed.tar.gz: an artifact", 1)


def test_a_damaged_artifact(artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact, tmp_path / "damaged")
    (tmp_path / "damaged" / "fp32" / "model.onnx").unlink()
    _, _, text = report(tmp_path / "damaged", status=1)
    assert text.endswith("1 of 3 files are not those of the manifest:\n  fp32/model.onnx: missing\n")


def test_a_graph(artifact: Path) -> None:
    first, facts, text = report(artifact / "int8" / "model.onnx")
    assert first == "model.onnx: an ONNX graph, 3.7 MB, by lmaas"
    assert facts["opsets"] == "ai.onnx 21, com.microsoft 1 (IR 10)"
    assert facts["operators"].startswith("17 of com.microsoft: MatMulIntegerToFloat 8, ")
    assert "of INT8, " in facts["weights"]
    assert re.search(r"^ input +input_ids +INT64 +\[batch, sequence\] *$", text, re.MULTILINE)
    assert re.search(r"^ output +logits +FLOAT +\[batch, 3\] *$", text, re.MULTILINE)


def test_inputs_that_differ_in_a_number_are_one_row(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    values = [
        helper.make_tensor_value_info(f"past_key.{layer}", TensorProto.FLOAT, [1]) for layer in range(12)
    ]
    graph = helper.make_graph(
        [], "g", values, [helper.make_tensor_value_info("\x1b[1m", TensorProto.FLOAT, None)]
    )
    onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
    _, facts, text = report(tmp_path / "g.onnx")
    assert facts["weights"] == "none"
    assert re.search(r"^ input +past_key\.0 \.\.\. past_key\.11 \(12\) +FLOAT +\[1\] *$", text, re.MULTILINE)
    assert re.search(r"^ output +\\x1b\[1m +FLOAT +any *$", text, re.MULTILINE)


def test_a_file_of_weights() -> None:
    first, facts, text = report(MODELS / "mini-nli" / "model.safetensors")
    assert first == "model.safetensors: 2.2 M parameters"
    assert facts == {"stored": "30 tensors, 4.3 MB of float16", "metadata": "format pt"}
    assert re.search(r"^ transformer\.wte\.weight +float16 +\[4096, 192\] +1\.6 MB *$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("path", "what"),
    [("mini-lm", "checkpoint"), ("mini-lm/model.safetensors", "weights")],
)
def test_the_same_for_scripts(path: str, what: str) -> None:
    answer = json.loads(inspect(MODELS / path, "--json").stdout)
    assert answer["what"] == what
    assert answer["name"] == path.rpartition("/")[2]


def test_an_artifact_for_scripts(artifact: Path) -> None:
    answer = json.loads(inspect(artifact, "--json").stdout)
    assert answer["what"] == "artifact"
    assert answer["problems"] == []
    assert answer["variants"]["int8"]["quality"]["label_agreement"] > 0.9
    assert json.loads(inspect(artifact / "fp32" / "model.onnx", "--json").stdout)["what"] == "graph"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("nothing", "lmaas: nothing: no such file or folder"),
        ("README.md", "lmaas: README.md: archive: not a sound .tar, .tar.gz, .tar.zst or .zip archive"),
        ("docs", "lmaas: docs: no checkpoint (config.json) and no artifact (manifest.json)"),
        ("\x1b[31m", "lmaas: \\x1b[31m: no such file or folder"),
        ("x" * 300, "File name too long"),
    ],
)
def test_says_in_one_line_what_is_wrong(path: str, expected: str) -> None:
    ended = inspect(ROOT / path)
    assert ended.exit_code == 1
    assert ended.stdout == ""
    assert expected in ended.stderr
    assert ended.stderr.count("\n") == 1
