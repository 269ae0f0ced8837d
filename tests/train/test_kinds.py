"""A training that begins with a checkpoint keeps the widths of its layers and the labels that it knows."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GPT2ForSequenceClassification

from tests.train.tiny import SENTENCES, tiny_config, tiny_tokenizer
from train.checkpoint import save_checkpoint
from train.data import Kind, LabelRow, UtteranceRow
from train.joint_nlu import JointNlu
from train.kinds import make_training
from train.options import Options
from train.pruning import cut
from train.start import open_start

LABELS = ("red", "green", "blue")
ROWS = [LabelRow(number, text, None, LABELS[number % 2]) for number, text in enumerate(SENTENCES)]


def save_pruned_classifier(folder: Path) -> GPT2ForSequenceClassification:
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    config.n_head, config.pad_token_id, config.num_labels = 4, 0, 3
    config.id2label, config.label2id = dict(enumerate(LABELS)), {name: n for n, name in enumerate(LABELS)}
    model = GPT2ForSequenceClassification(config)
    cut(
        model.transformer,
        [torch.tensor([0, 2, 3]), torch.tensor([1])],
        [torch.arange(40), torch.arange(256)],
    )
    save_checkpoint(folder, model, config, tokenizer, architectures=["GPT2ForSequenceClassification"])
    return model


def test_a_pruned_classifier_goes_on_with_its_head(tmp_path: Path) -> None:
    before = save_pruned_classifier(tmp_path / "pruned")
    options = Options(train=tmp_path, out=tmp_path / "out", start=str(tmp_path / "pruned"))
    training = make_training(Kind.CLASSIFIER, open_start(Kind.CLASSIFIER, options, ()), ROWS, options)
    after = dict(training.module.named_parameters())
    for name, parameter in before.named_parameters():
        assert torch.allclose(after[name], parameter, atol=1e-3), name
    assert set(training.figures(ROWS)) == {"loss", "accuracy"}
    training.save(tmp_path / "again")
    options = Options(train=tmp_path, out=tmp_path / "out", start=str(tmp_path / "again"))
    source = open_start(Kind.CLASSIFIER, options, ()).source
    assert source is not None
    assert source.labels == LABELS
    assert (source.layer_heads, source.layer_neurons) == ((3, 1), (40, 256))


def test_an_nlu_model_keeps_the_order_of_its_labels(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    config.pad_token_id = 0
    config.id2label, config.label2id = {0: "tell", 1: "ask"}, {"tell": 0, "ask": 1}
    slots = ["I-who", "O", "B-who"]
    model = JointNlu(config, 2, 3)
    extra = {"slot_labels": slots, "nlu_echo": False}
    save_checkpoint(tmp_path / "nlu", model, config, tokenizer, architectures=["GPT2ForJointNlu"], **extra)
    options = Options(train=tmp_path, out=tmp_path / "out", start=str(tmp_path / "nlu"), attention="causal")

    def known(intent: str, tag: str) -> tuple[list[str], list[str]]:
        rows = [UtteranceRow(1, ("the", "fox"), ("O", tag), intent)]
        training = make_training(Kind.NLU, open_start(Kind.NLU, options, ()), rows, options)
        joint = training.joint  # type: ignore[attr-defined]
        return list(joint.intents), list(joint.slots)

    assert known("ask", "B-who") == (["tell", "ask"], slots)
    assert known("sing", "B-what") == (["sing"], ["O", "B-what"])
