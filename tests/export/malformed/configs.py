"""Checkpoints whose config.json must not pass, each with a part of its message."""

from __future__ import annotations

import os
from pathlib import Path

from tests.export.edits import Edit, change_config, remove, write
from tests.export.malformed.inputs import bind, in_place_of

CONFIGS: dict[str, tuple[Edit, str]] = {
    "config missing": (remove("config.json"), "config.json: missing"),
    "config empty": (write("config.json", b""), "config.json: not JSON: Expecting value: line 1 column 1"),
    "config truncated": (
        write("config.json", b'{"n_layer": 2'),
        "config.json: not JSON: Expecting ',' delimiter",
    ),
    "config nested": (
        write("config.json", b"[" * 100_000),
        "config.json: not JSON that is read: nested too deeply",
    ),
    "config a list": (write("config.json", b"[]"), "config.json: an object is needed, not list"),
    "config not UTF-8": (write("config.json", b'{"a": "\xff"}'), "config.json: not UTF-8 at byte 7"),
    "config in UTF-16": (write("config.json", "{}".encode("utf-16")), "config.json: not UTF-8 at byte 0"),
    "config key twice": (write("config.json", b'{"a": 1, "a": 2}'), "the name 'a' comes twice"),
    "config of many digits": (
        write("config.json", b'{"n_layer": 1' + b"0" * 5000 + b"}"),
        "config.json: not JSON: a number of 5001 digits, but at most 40 are read",
    ),
    "config with NaN": (
        change_config(layer_norm_epsilon=float("nan")),
        "config.json: not JSON: NaN is no finite",
    ),
    "config with Infinity": (
        change_config(n_layer=float("inf")),
        "config.json: not JSON: Infinity is no finite",
    ),
    "config beyond floats": (
        write("config.json", b'{"a": 1e999}'),
        "config.json: not JSON: 1e999 is no finite",
    ),
    "config with half a character": (
        change_config(x="\ud83d"),
        "config.json: not JSON: a string holds \\ud83d",
    ),
    "config of 17 MB": (
        write("config.json", bytes(17_000_000)),
        "config.json: 17000000 bytes, but at most 16777216",
    ),
    "config a folder": (
        in_place_of("config.json", Path.mkdir),
        "config.json: a folder, but a plain file is needed",
    ),
    "config a pipe": (
        in_place_of("config.json", os.mkfifo),
        "config.json: a pipe, but a plain file is needed",
    ),
    "config a socket": (
        in_place_of("config.json", bind),
        "config.json: a socket, but a plain file is needed",
    ),
    "config a device": (
        in_place_of("config.json", lambda path: path.symlink_to("/dev/zero")),
        "config.json: a device, but a plain file is needed",
    ),
    "config linked to itself": (
        in_place_of("config.json", lambda path: path.symlink_to("config.json")),
        "config.json: a link that leads back to itself",
    ),
    "config linked to nothing": (
        in_place_of("config.json", lambda path: path.symlink_to("gone")),
        "config.json: a link that leads nowhere",
    ),
    "another architecture": (
        change_config(architectures=["BertModel"]),
        "architectures: \"['BertModel']\": one of",
    ),
    "head of another task": (
        change_config(architectures=["GPT2ForQuestionAnswering"]),
        "architectures: \"['GPT2ForQuestionAnswering']\": one of GPT2LMHeadModel",
    ),
    "five million lists": (
        write("config.json", b'{"architectures": ["Many"], "x": [' + b"[]," * 5_000_000 + b"0]}"),
        "architectures: \"['Many']\": one of GPT2LMHeadModel",
    ),
    "another model type": (change_config(model_type="llama"), "model_type: 'llama': only gpt2"),
    "quantized": (
        change_config(quantization_config={"bits": 4}),
        "quantization_config: \"{'bits': 4}\": not",
    ),
    "cross-attention": (
        change_config(add_cross_attention=True),
        "add_cross_attention: 'True': a decoder with",
    ),
    "another activation": (
        change_config(activation_function="silu"),
        "activation_function: 'silu': another function: only gelu_new, ",
    ),
    "layers a string": (change_config(n_layer="2"), "n_layer: '2': a whole number from 1 to 1024"),
    "layers true": (change_config(n_layer=True), "n_layer: 'True': a whole number from 1"),
    "huge layers": (change_config(n_layer=10**12), "n_layer: '1000000000000': a whole number"),
    "negative width": (change_config(n_embd=-64), "n_embd: '-64': a whole number from 1 to 65536"),
    "heads not a divisor": (change_config(n_head=3), "n_head: '3': n_embd 64 is not a multiple of it"),
    "huge vocabulary": (
        change_config(vocab_size=10**9),
        "vocab_size: '1000000000': a whole number from 1 to",
    ),
    "eos beyond the vocabulary": (
        change_config(eos_token_id=300),
        "eos_token_id: '300': a whole number from 0 to 299",
    ),
    "negative epsilon": (change_config(layer_norm_epsilon=-1), "layer_norm_epsilon: '-1': a number from"),
    "attention unknown": (change_config(attention="both"), "attention: 'both': not one of causal, bidirect"),
    "attention of a language model": (
        change_config(attention="bidirectional"),
        "attention: 'bidirectional': GPT2LMHeadModel predicts what comes after: causal is needed",
    ),
    "n-grams of a language model": (
        change_config(ngram_buckets=8, ngram_orders=[1]),
        "ngram_buckets: '8': GPT2LMHeadModel has no labels of a text",
    ),
    "n-grams of pairs without an end": (
        change_config(
            architectures=["GPT2ForSequenceClassification"],
            num_labels=2,
            eos_token_id=None,
            ngram_buckets=8,
            ngram_orders=[1],
            ngram_pairs=True,
        ),
        "ngram_pairs: 'True': a classifier with an eos_token_id",
    ),
    "flag a string": (change_config(scale_attn_weights="yes"), "scale_attn_weights: 'yes': true or false"),
    "heads of another number of layers": (
        change_config(layer_heads=[2, 2, 2]),
        "layer_heads: '[2, 2, 2]': a list of 2 numbers is needed, one for each layer",
    ),
    "heads that are one number": (
        change_config(layer_heads=2),
        "layer_heads: '2': a list of 2 numbers is needed",
    ),
    "a layer without heads": (
        change_config(layer_heads=[2, 0]),
        "layer_heads: '0': whole numbers from 1 to 2 are needed",
    ),
    "more heads than fit": (
        change_config(layer_heads=[3, 2]),
        "layer_heads: '3': whole numbers from 1 to 2 are needed",
    ),
    "heads that are not there": (
        change_config(layer_heads=[2, 1]),
        "tensor h.1.attn.c_attn.weight: expected shape (64, 96), found (64, 192)",
    ),
    "a layer without neurons": (
        change_config(layer_neurons=[0, 256]),
        "layer_neurons: '0': whole numbers from 1 to 1048576 are needed",
    ),
    "neurons that are not there": (
        change_config(layer_neurons=[40, 256]),
        "tensor h.0.mlp.c_fc.weight: expected shape (64, 40), found (64, 256)",
    ),
    "context of one": (change_config(n_positions=1), "n_positions: '1': a whole number from 2"),
}
LABELS: dict[str, tuple[str, Edit, str]] = {
    "labels with a hole": (
        "classifier",
        change_config(id2label={"0": "a", "2": "b"}),
        "the ids must be 0 to 1",
    ),
    "labels twice": (
        "classifier",
        change_config(id2label={"0": "a", "1": "a"}),
        "id2label: \"['a', 'a']\": the names",
    ),
    "long label": (
        "classifier",
        change_config(id2label={"0": "a" * 1001}),
        "a name has at most 1000 characters",
    ),
    "problem type": ("classifier", change_config(problem_type="rank"), "problem_type: 'rank': not one of"),
    "fewer labels": (
        "classifier",
        change_config(id2label={"0": "a", "1": "b"}),
        "id2label (num_labels without it): 2 names, but score.weight has 3 rows",
    ),
    "no slot labels": ("nlu", change_config(slot_labels=None), "slot_labels: '[]': GPT2ForJointNlu needs"),
    "no slot transitions": (
        "nlu",
        change_config(slot_transitions=True),
        "tensor slot_transitions.weight: missing, expected shape (6, 5)",
    ),
    "slot transitions of a classifier": (
        "classifier",
        change_config(slot_transitions=True),
        "slot_transitions: 'True': only GPT2ForJointNlu has them",
    ),
    "slot labels of numbers": (
        "nlu",
        change_config(slot_labels=["O", 1]),
        "slot_labels: \"['O', 1]\": a list of",
    ),
}
