"""`lmaas train` on a few rows: each kind of model from its options to a checkpoint with a card."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from export.checkpoint.config import Ngrams
from export.checkpoint.folder import Checkpoint
from export.errors import ExportError
from lmaas import app
from train.data import DataError, Kind, Problem
from train.job import OPTIONS, Outcome, RunError, run
from train.options import Options, described
from train.trainer import METRICS

TINY = {
    "vocabulary": 300,
    "layers": 1,
    "width": 64,
    "context": 64,
    "precision": "fp32",
    "device": "cpu",
    "dropout": 0.0,
}
NICE = ["a lovely film", "lovely and warm", "a warm story", "what a lovely story", "warm and lovely film"]
NASTY = [
    "a dreadful film",
    "dreadful and cold",
    "a cold story",
    "what a dreadful story",
    "cold dreadful film",
]
CLASSES = "text,label\n" + "".join(f"{a},good\n{b},bad\n" for a, b in zip(NICE, NASTY, strict=True))
UTTERANCES = [
    {"tokens": ["play", "jazz"], "tags": ["O", "B-genre"], "intent": "Play"},
    {"tokens": ["play", "soul", "music"], "tags": ["O", "B-genre", "I-genre"], "intent": "Play"},
    {"tokens": ["rain", "in", "rome"], "tags": ["O", "O", "B-city"], "intent": "Weather"},
    {"tokens": ["snow", "in", "oslo"], "tags": ["O", "O", "B-city"], "intent": "Weather"},
]


def write(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content, "utf-8")
    return folder / name


def trained(
    kind: Kind, folder: Path, data: Path, lines: list[str] | None = None, **changed: Any
) -> tuple[Outcome, Path]:
    """Train on `data`, which is held out as well; returns the outcome and the checkpoint's folder."""
    given = {**TINY, "held_out": str(data), "out": folder / "out", "train": data, **changed}
    given = {name: value for name, value in given.items() if kind in described()[name].kinds}
    shown: list[str] = [] if lines is None else lines
    outcome = run(kind, Options(**given), shown.append, "lmaas train ...")
    return outcome, given["out"]


def test_a_classifier(tmp_path: Path) -> None:
    data, lines = write(tmp_path, "reviews.csv", CLASSES + "a lovely film,good\n"), list[str]()
    outcome, out = trained(
        Kind.CLASSIFIER, tmp_path, data, lines, epochs=20, batch_size=5, test=data, learning_rate=3e-3
    )
    assert outcome.held_out["accuracy"] == 1.0
    shown = "\n".join(lines)
    assert "rows: 10 to train on, 11 held out, 11 to test" in shown
    assert "--deduplicate: rows dropped 1" in shown
    assert "11 of 11 held-out rows have a text that is trained on" in shown
    assert "40 steps" in shown
    checkpoint = Checkpoint.open(out)
    assert checkpoint.config.labels == ("bad", "good")
    card = (out / "README.md").read_text()
    assert "| accuracy, test | 100.0% | 11 rows |" in card
    assert "reviews.csv" in card
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    steps = [json.loads(line)["step"] for line in (out / METRICS).read_text().splitlines()]
    assert steps[-1] == 40
    # What is only needed to continue is gone.
    assert not list((tmp_path / "out-training").glob("checkpoint-*"))


def test_a_classifier_with_our_own_parts(tmp_path: Path) -> None:
    data = write(tmp_path, "reviews.csv", CLASSES)
    own: dict[str, Any] = {"attention": "bidirectional", "ngram_buckets": 100, "ngram_order": 3}
    _, out = trained(Kind.CLASSIFIER, tmp_path, data, epochs=2, batch_size=5, **own)
    config = Checkpoint.open(out).config
    assert (config.bidirectional, config.ngrams) == (True, Ngrams(100, (1, 2, 3)))
    card = (out / "README.md").read_text()
    assert "attention to both sides of a token, a bag of n-grams of up to 3 tokens in 100 buckets." in card


def test_a_classifier_of_pairs_from_a_language_model(tmp_path: Path) -> None:
    text = write(tmp_path, "stories.txt", "\n\n".join([*NICE, *NASTY]))
    _, body = trained(Kind.LM, tmp_path, text, out=tmp_path / "body", context=16, batch_size=2)
    rows = "".join(f"{a},{b},{a == b}\n" for a in NICE[:3] for b in NICE[:3])
    data = write(tmp_path, "pairs.csv", f"text,text_pair,label\n{rows}")
    outcome, out = trained(Kind.CLASSIFIER, tmp_path, data, start=str(body), epochs=1)
    assert outcome.start.origin == "body"
    body_tokenizer = Checkpoint.open(body).tokenizer
    ids = Checkpoint.open(out).tokenizer.encode("a", "b").ids
    plain = [body_tokenizer.encode(text).ids for text in ("a", "b")]
    assert ids == [*plain[0], 0, *plain[1], 0]
    # It began with the body's weights: one epoch at a small rate moves them little.
    before, after = (Checkpoint.open(folder).weight("h.0.mlp.c_fc.weight") for folder in (body, out))
    assert 0 < abs(before - after).max() < 0.02
    # A second training keeps the head, because it has the same labels.
    again, _ = trained(Kind.CLASSIFIER, tmp_path, data, start=str(out), out=tmp_path / "again", epochs=1)
    assert again.start.kind is Kind.CLASSIFIER


def test_several_classes_a_row(tmp_path: Path) -> None:
    rows = [(text, "good|kind") for text in NICE] + [(text, "bad") for text in NASTY] + [("so so", "")]
    data = write(tmp_path, "a.csv", "text,label\n" + "".join(f"{a},{b}\n" for a, b in rows))
    outcome, out = trained(
        Kind.CLASSIFIER, tmp_path, data, problem=Problem.MULTI, epochs=25, batch_size=4, learning_rate=3e-3
    )
    assert outcome.held_out["F1"] > 0.9
    assert Checkpoint.open(out).config.problem_type == "multi_label_classification"


def test_values(tmp_path: Path) -> None:
    rows = [(text, 1.5) for text in NICE] + [(text, -0.5) for text in NASTY]
    data = write(tmp_path, "a.csv", "text,label\n" + "".join(f"{a},{b}\n" for a, b in rows))
    outcome, out = trained(
        Kind.CLASSIFIER,
        tmp_path,
        data,
        problem=Problem.REGRESSION,
        epochs=30,
        batch_size=5,
        learning_rate=3e-3,
    )
    assert outcome.held_out["error"] < 0.5  # 1.0 is the standard deviation
    config = Checkpoint.open(out).config
    assert (config.problem_type, config.labels) == ("regression", ("value",))


@pytest.mark.parametrize("attention", ["echo", "bidirectional"])
def test_intents_and_slots(tmp_path: Path, attention: str) -> None:
    data = write(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in UTTERANCES))
    outcome, out = trained(
        Kind.NLU, tmp_path, data, epochs=25, batch_size=2, attention=attention, learning_rate=5e-3
    )
    assert outcome.held_out == {"intent accuracy": 1.0, "slot F1": 1.0}
    config = Checkpoint.open(out).config
    assert config.slot_labels == ("O", "B-city", "B-genre", "I-genre")
    assert (config.nlu_echo, config.bidirectional) == (attention == "echo", attention == "bidirectional")


def test_a_language_model(tmp_path: Path) -> None:
    data = write(tmp_path, "stories.txt", "\n\n".join([*NICE, *NASTY] * 3))
    first, out = trained(Kind.LM, tmp_path, data, context=16, batch_size=2, epochs=1)
    more, _ = trained(
        Kind.LM, tmp_path, data, context=16, batch_size=2, epochs=4, start=str(out), out=tmp_path / "more"
    )
    assert more.held_out["perplexity"] < first.held_out["perplexity"] < 300


def test_the_estimate_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path, "a.csv", CLASSES)
    _, plain = trained(Kind.CLASSIFIER, tmp_path, data, epochs=2, out=tmp_path / "plain", dropout=0.2)
    monkeypatch.setattr("train.job.estimate", lambda *_: None)
    monkeypatch.setattr("train.job.write_card", lambda *_: None)
    _, without = trained(Kind.CLASSIFIER, tmp_path, data, epochs=2, out=tmp_path / "without", dropout=0.2)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (plain, without)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"held_out": "2"}, ValueError, "a share is between 0 and 1"),
        ({"resume": True}, RunError, "no run to continue"),
        ({"start": "/nowhere"}, ExportError, "no such file or folder"),
        ({"max_characters": 3}, DataError, "leaves no rows"),
        ({"context": 8, "train": "long.csv"}, DataError, "all rows have more than 8 tokens"),
        ({"width": 100}, ValueError, "multiple of 64"),
        ({"precision": "fp16"}, ValueError, "needs a GPU"),
        ({"max_characters": 3, "min_characters": 4}, ValueError, "--max-characters: 3: at least 4"),
        pytest.param(
            {"device": "cuda"},
            ValueError,
            "--device: cuda: torch finds no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_what_cannot_be_trained(
    tmp_path: Path, changed: dict[str, Any], error: type[Exception], words: str
) -> None:
    data = write(tmp_path, "a.csv", CLASSES)
    write(tmp_path, "long.csv", "text,label\n" + f"{'long ' * 40},a\n{'longer ' * 40},b\n")
    if "train" in changed:
        path = tmp_path / changed["train"]
        changed = {**changed, "train": path, "held_out": str(path)}
    with pytest.raises(error, match=words):
        trained(Kind.CLASSIFIER, tmp_path, data, **changed)
    assert not (tmp_path / "out").exists()


def test_an_output_is_not_replaced_by_accident(tmp_path: Path) -> None:
    data = write(tmp_path, "a.csv", CLASSES)
    trained(Kind.CLASSIFIER, tmp_path, data, epochs=1)
    with pytest.raises(RunError, match="out exists"):
        trained(Kind.CLASSIFIER, tmp_path, data, epochs=1)
    trained(Kind.CLASSIFIER, tmp_path, data, epochs=1, overwrite=True)
    (tmp_path / "out").rename(tmp_path / "moved")
    with pytest.raises(RunError, match="holds a run: continue it with --resume"):
        trained(Kind.CLASSIFIER, tmp_path, data, epochs=1)


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    sizes = [part for name, value in TINY.items() for part in (f"--{name}", str(value))]
    run_of = ["--train", str(data), "--held-out", str(data), "--out", str(out)]
    return ["train", "classifier", *run_of, *sizes, "--batch-size", "2", "--save-every", "3", *more]


# Of a command whose process kills itself in step 8. The estimate before the run computes four losses.
KILLED = """
import os, signal, sys
from train.heads import ClassifierTraining
from lmaas import app
plain, calls = ClassifierTraining.loss, []
def loss(self, batch):
    calls.append(batch)
    if len(calls) == 4 + 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, batch)
ClassifierTraining.loss = loss
app(sys.argv[1:])
"""


def test_a_run_that_is_killed_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    data, run_folder = write(tmp_path, "a.csv", CLASSES), tmp_path / "killed-training"
    words = arguments(data, tmp_path / "killed", "--epochs", "4", "--dropout", "0.2")
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (run_folder / "checkpoint-6").is_dir()
    assert not (tmp_path / "killed").exists()
    other = CliRunner().invoke(app, [*words, "--resume", "--seed", "1"])
    assert other.stderr == "lmaas: --resume: --seed was 20, and is 1 now\n"
    options = (run_folder / OPTIONS).read_text()
    (run_folder / OPTIONS).write_text(options.replace('"--seed"', '"--of-old"'))
    earlier = CliRunner().invoke(app, [*words, "--resume"])
    assert "is of an earlier version, which had no --seed" in earlier.stderr
    (run_folder / OPTIONS).write_text(options)
    resumed = CliRunner().invoke(app, [*words, "--resume"])
    whole = CliRunner().invoke(app, arguments(data, tmp_path / "whole", "--epochs", "4", "--dropout", "0.2"))
    assert (resumed.exit_code, whole.exit_code) == (0, 0), resumed.stderr
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]
    # Each evaluation is there once.
    lines = [json.loads(line) for line in (tmp_path / "killed" / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines if "eval_accuracy" in line] == [5, 10, 15, 20]
    assert json.loads((run_folder / OPTIONS).read_text())["--epochs"] == "4"


def test_bad_data_ends_the_command_with_one_line(tmp_path: Path) -> None:
    data = write(tmp_path, "a.csv", "text,label\nfine,a\nNaN,b\n")
    ended = CliRunner().invoke(app, arguments(data, tmp_path / "out"))
    assert ended.exit_code == 1
    assert (
        ended.stderr == f"lmaas: {data}: row 3: text: NaN stands for a missing value: fill or drop the row\n"
    )


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    data = write(tmp_path, "a.csv", CLASSES)
    code = "import sys; sys.modules['torch'] = None\nfrom lmaas import app; app(sys.argv[1:])"
    words = [sys.executable, "-c", code, *arguments(data, tmp_path / "out")]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "lmaas: `lmaas train` needs torch: pip install 'lmaas[train]'\n"


def test_each_kind_has_its_options() -> None:
    helps = {kind: CliRunner().invoke(app, ["train", kind.value, "--help"]).stdout for kind in Kind}
    assert "--problem" in helps[Kind.CLASSIFIER]
    assert "--problem" not in helps[Kind.LM]
    assert "--pack" in helps[Kind.LM]
    assert "--attention" in helps[Kind.NLU]
    assert all("--resume" in text for text in helps.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_trains_in_half_precision(tmp_path: Path) -> None:
    data = write(tmp_path, "a.csv", CLASSES)
    for precision in ("fp16", "bf16"):
        given: dict[str, Any] = {"device": "cuda", "precision": precision, "out": tmp_path / precision}
        outcome, _ = trained(Kind.CLASSIFIER, tmp_path, data, epochs=20, learning_rate=3e-3, **given)
        assert outcome.held_out["accuracy"] == 1.0
        assert torch.cuda.get_device_name() in str(outcome.estimate)
