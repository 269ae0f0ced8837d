"""`lmaas prune` and `lmaas distil` on tiny models, from rows to a table of before and after."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel
from typer.testing import CliRunner

from export.checkpoint.config import read_config
from lmaas import app
from tests.train.tiny import SENTENCES, tiny_config, tiny_tokenizer
from train import compression_report
from train.checkpoint import save_checkpoint
from train.compression import with_buckets, with_layers
from train.data import Kind
from train.head_parts import make_bag
from train.joint_nlu import JointNlu
from train.options import Options
from train.start import open_start
from train.tokenizer import end_with_end_of_text

LABELS = ("fox", "apple")
FAST = ("--epochs", "1", "--batch-size", "8", "--threads", "1", "--precision", "fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of each kind, and rows for each."""
    made = tmp_path_factory.mktemp("compression")
    texts = [f"{text} {number}" for number in range(6) for text in SENTENCES]
    write(made / "rows.jsonl", [{"text": t, "label": LABELS["apple" in t]} for t in texts])
    write(
        made / "nlu.jsonl",
        [
            {
                "tokens": t.split(),
                "tags": ["B-who", *["O"] * (len(t.split()) - 1)],
                "intent": LABELS["apple" in t],
            }
            for t in texts
        ],
    )
    (made / "rows.txt").write_text("\n\n".join(texts), "utf-8")
    for seed in (0, 1):
        save_classifier(made / f"classifier{seed}", seed)
    save_others(made)
    return made


def write(path: Path, rows: Sequence[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def save_classifier(folder: Path, seed: int) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    end_with_end_of_text(tokenizer)
    config = tiny_config(tokenizer)
    config.n_head, config.pad_token_id, config.num_labels = 2, 256, 2
    config.id2label, config.label2id = dict(enumerate(LABELS)), {name: n for n, name in enumerate(LABELS)}
    torch.manual_seed(seed)
    model = GPT2ForSequenceClassification(config)
    if seed == 0:
        config.ngram_buckets, config.ngram_orders = 64, [1, 2]
        model.ngrams = make_bag(config, len(LABELS))
        torch.nn.init.normal_(model.ngrams.weight)
    save_checkpoint(folder, model, config, tokenizer, architectures=["GPT2ForSequenceClassification"])


def save_others(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    config.n_head, config.pad_token_id = 2, 0
    save_checkpoint(
        folder / "lm", GPT2LMHeadModel(config), config, tokenizer, architectures=["GPT2LMHeadModel"]
    )
    config.id2label, config.label2id = dict(enumerate(LABELS)), {name: n for n, name in enumerate(LABELS)}
    model = JointNlu(config, 2, 2)
    extra = {"slot_labels": ["B-who", "O"], "nlu_echo": True}
    save_checkpoint(folder / "nlu", model, config, tokenizer, architectures=["GPT2ForJointNlu"], **extra)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression_report, "RESAMPLES", 9)
    monkeypatch.setattr(compression_report, "ROUNDS", 1)
    logging.getLogger("train").setLevel(logging.WARNING)


def lmaas(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_pruned_classifier(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    given = ["prune", folder / "classifier0", "--data", folder / "rows.jsonl", "--out", out, *FAST]
    table = lmaas(*given, "--heads", 0.25, "--neurons", 0.5)
    config = read_config(out)
    assert sum(config.layer_heads) == 3
    assert sum(config.layer_neurons) == 256
    assert config.labels == LABELS
    bags = [load_file(each / "model.safetensors")["ngrams.weight"] for each in (folder / "classifier0", out)]
    assert torch.equal(*bags)
    assert "| parameters |" in table
    assert "| int8, accuracy |" in table
    assert "int8, rows a second in batches" in table
    assert table in (out / "README.md").read_text("utf-8")
    again = [*map(str, given), "--resume", "--overwrite", "--heads", "0.25", "--neurons"]
    assert "| int8, accuracy |" in lmaas(*again, 0.5)
    result = CliRunner().invoke(app, [*again, "0.25"])
    assert "--resume: --neurons was 0.5, and is 0.25 now" in result.stderr


def test_a_pruned_nlu_model(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    table = lmaas(
        "prune", folder / "nlu", "--data", folder / "nlu.jsonl", "--neurons", 0.5, "--out", out, *FAST
    )
    config = read_config(out)
    assert sum(config.layer_neurons) == 256
    assert config.slot_labels == ("B-who", "O")
    assert config.nlu_echo
    assert "slot F1" in table


def test_a_student_of_two_teachers_and_a_linear_one(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "student"
    teachers = (folder / "classifier0", folder / "classifier1", "linear")
    table = lmaas(
        "distil",
        *teachers,
        "--data",
        folder / "rows.jsonl",
        "--layers",
        1,
        "--out",
        out,
        *FAST,
        "--ngram-buckets",
        16,
    )
    config = read_config(out)
    assert config.num_layers == 1
    assert config.ngrams is not None
    assert config.ngrams.buckets == 16
    assert "| classifier0 | classifier1 | student | change |" in table
    found, teacher = (load_file(each / "model.safetensors") for each in (out, folder / "classifier0"))
    assert len(found) < len(teacher)


def test_a_narrower_language_model_learns_from_a_pruned_one(folder: Path, tmp_path: Path) -> None:
    rows = ("--data", folder / "rows.txt")
    lmaas("prune", folder / "lm", *rows, "--heads", 0.5, "--out", tmp_path / "pruned", *FAST)
    options = ("--width", 32, "--neurons", 48, "--out", tmp_path / "narrow", *FAST)
    assert "perplexity per token" in lmaas("distil", tmp_path / "pruned", *rows, *options)
    config = read_config(tmp_path / "narrow")
    assert (config.num_layers, config.hidden_size, config.layer_heads) == (1, 32, (1,))
    assert config.layer_neurons == (48,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prune", "{}/classifier0"), "--heads and --neurons are both 0"),
        (("prune", "{}/classifier0", "--neurons", "1"), "neurons: 1.0: a share from 0 to below 1"),
        (
            ("prune", "{}/classifier0", "--neurons", "0.1", "--ranking", "best"),
            "'best' is not a valid Ranking",
        ),
        (("distil", "{}/classifier0", "--layers", "3"), "layers: 3: the teacher has 2"),
        (
            ("distil", "{}/classifier0", "--width", "48"),
            "width: 48: a multiple of the head size 32, below 64",
        ),
        (("distil", "{}/classifier0", "--neurons", "9"), "only a student with a smaller --width"),
        (("distil", "{}/classifier0", "--ngram-buckets", "48"), "its bag of n-grams has 64 buckets"),
        (("distil", "{}/classifier0", "{}/nlu"), "its tokenizer is not that of the student"),
        (("distil", "linear"), "a student cannot begin with the teacher linear: name a checkpoint"),
        (("distil", "{}/classifier0", "--temperature", "0"), "temperature: 0.0: a number above 0"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: Sequence[str], message: str, folder: Path, tmp_path: Path
) -> None:
    given = [argument.format(folder) for argument in arguments]
    options = ["--data", str(folder / "rows.jsonl"), "--out", str(tmp_path / "out"), *FAST]
    result = CliRunner().invoke(app, [*given, *options])
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_students_layers_are_the_teachers(folder: Path, tmp_path: Path) -> None:
    def start() -> object:
        options = Options(train=tmp_path, out=tmp_path, start=str(folder / "classifier0"))
        return open_start(Kind.CLASSIFIER, options, ())

    teacher, student = start(), with_layers(start(), 1)  # type: ignore[arg-type]
    name = "h.0.mlp.c_fc.weight"
    assert torch.equal(student.tensors[name], teacher.tensors[name])  # type: ignore[attr-defined]
    assert not any(name.startswith("h.1.") for name in student.tensors)


def test_a_folded_bag_says_the_same_where_no_n_grams_fall_together(folder: Path, tmp_path: Path) -> None:
    options = Options(train=tmp_path, out=tmp_path, start=str(folder / "classifier0"))
    start = open_start(Kind.CLASSIFIER, options, ())
    rows, lengths = torch.tensor([[5, 7, 9]]), torch.tensor([3])
    whole = make_bag(start.config, 2)
    assert whole is not None
    table = torch.zeros(64, 2)
    used = torch.cat([places[inside] for places, inside in whole.places(rows, lengths)])
    assert len(set((used % 32).tolist())) == len(used)
    table[used] = torch.randn(len(used), 2)
    whole.weight.data = table
    folded = with_buckets(replace(start, tensors={**start.tensors, "ngrams.weight": table}), 32)
    small = make_bag(folded.config, 2)
    assert small is not None
    small.weight.data = folded.tensors["ngrams.weight"]
    assert torch.equal(small(rows, lengths), whole(rows, lengths))
