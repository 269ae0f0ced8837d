"""A training that begins with a checkpoint keeps the widths of its layers and the labels that it knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2ForSequenceClassification

from export.pipeline import export_checkpoint
from export.verification.oracles import NumpyOracle
from export.verification.verify import verify
from runtime.contract import Variant
from tests.train.tiny import SENTENCES, tiny_config, tiny_tokenizer
from train.checkpoint import save_checkpoint
from train.data import Kind, LabelRow, UtteranceRow
from train.head_parts import body_states
from train.heads import label_logits
from train.joint_nlu import JointNlu
from train.kinds import make_training
from train.options import Attention, Options
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


def own_parts(tmp_path: Path, attention: Attention) -> Options:
    """Options for a tiny model with attention to both sides and a bag of n-grams."""
    return Options(
        train=tmp_path,
        out=tmp_path / "out",
        attention=attention,
        ngram_buckets=50,
        ngram_order=3,
        vocabulary=300,
        layers=1,
        width=64,
        context=64,
    )


WORDS = [UtteranceRow(n, ("the", "fox"), ("O", "B-who"), LABELS[n % 2]) for n in range(4)]
PAIRS = [replace(row, text_pair="the bird") for row in ROWS]


@pytest.mark.parametrize("rows", [ROWS, PAIRS, WORDS], ids=["classifier", "pairs", "nlu"])
def test_our_own_parts_are_trained_as_they_are_exported(rows: Sequence[Any], tmp_path: Path) -> None:
    kind = Kind.NLU if rows is WORDS else Kind.CLASSIFIER
    options = own_parts(tmp_path, "bidirectional")
    training = make_training(kind, open_start(kind, options, SENTENCES), rows, options)
    module: Any = training.module
    bag = module.ngrams.weight
    loss: Any = training.loss(training.batches[0])
    loss.backward()
    assert int((bag.grad.abs().sum(dim=1) > 0).sum()) >= 3  # n-grams of the batch learn
    torch.nn.init.normal_(bag)
    training.save(tmp_path / "checkpoint")
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "artifact", name="x", variants=[Variant.FP32])
    own = verify(tmp_path / "checkpoint", tmp_path / "artifact", prompts=2, tokens=4)[-1]
    assert own.passed

    # The training's logits, of rows in a padded batch, are those of the exporter's reference, of one row.
    written = open_start(kind, replace(options, start=str(tmp_path / "checkpoint")), ())
    assert written.source is not None
    assert (written.source.bidirectional, written.source.nlu_echo) == (True, False)
    oracle = NumpyOracle(tmp_path / "checkpoint", written.source)
    again: Any = make_training(kind, written, rows, options).module.eval()
    ids = [[5, 9, 0, 3, 9], [7], [20, 21, 22, 23, 24, 0]]  # 0 ends a text
    padded = torch.tensor([row + [30] * (6 - len(row)) for row in ids])
    lengths = torch.tensor([len(row) for row in ids])
    with torch.no_grad():
        states = body_states(again.transformer, padded, lengths)
        many = (
            again.intent_logits(states, padded, lengths)
            if kind is Kind.NLU
            else label_logits(again, states, padded, lengths)
        )
    for row, logits in zip(ids, many, strict=True):
        assert np.abs(oracle.logits(row)[0] - logits.numpy()).max() < 1e-4


def test_a_model_with_our_own_parts_keeps_them(tmp_path: Path) -> None:
    options = own_parts(tmp_path, "bidirectional")
    make_training(Kind.CLASSIFIER, open_start(Kind.CLASSIFIER, options, SENTENCES), ROWS, options).save(
        tmp_path / "first"
    )
    plain = Options(train=tmp_path, out=tmp_path / "out", start=str(tmp_path / "first"))
    again: Any = make_training(Kind.CLASSIFIER, open_start(Kind.CLASSIFIER, plain, ()), ROWS, plain).module
    assert again.config.attention == "bidirectional"
    assert again.ngrams.weight.shape == (50, 2)


def test_a_classifier_reads_its_text_once(tmp_path: Path) -> None:
    options = own_parts(tmp_path, "echo")
    with pytest.raises(ValueError, match="--attention: echo: only nlu reads a text twice"):
        options.check(Kind.CLASSIFIER)
    options.check(Kind.NLU)
