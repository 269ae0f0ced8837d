"""What an export must show, at GPT-2's size and on the bundled models.

fp32 answers as torch does, and an answer of int8 does not depend on who else is asking.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bench.checkpoints import write_checkpoint
from export.checkpoint.folder import Checkpoint
from export.graph.build import write_graph
from export.session import LanguageSession
from export.verification.answers import head_answers, language_answers
from export.verification.oracles import NumpyOracle, TransformersOracle
from export.verification.verify import GREEDY_TOKENS, PROMPTS, Verification, compare
from runtime.contract import Kind, Variant

LIMIT = 2e-4
OTHERS = 16
DECODED = 4  # tokens
BODY = re.compile(r"^((h|wte|wpe|ln_f)\.)")
MODELS = Path(__file__).resolve().parents[3] / "models"
HEADS: dict[str, dict[str, Any]] = {
    "classifier": {"architectures": ["GPT2ForSequenceClassification"], "num_labels": 5},
    "tagger": {"architectures": ["GPT2ForTokenClassification"], "num_labels": 9},
    "nlu": {
        "architectures": ["GPT2ForJointNlu"],
        "id2label": {str(index): f"intent {index}" for index in range(7)},
        "slot_labels": [f"slot {index}" for index in range(20)],
    },
}


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 124 million random weights."""
    folder = tmp_path_factory.mktemp("gpt2")
    write_checkpoint("gpt2", folder)
    return folder


def against_torch(folder: Path, scratch: Path, tokens: int = GREEDY_TOKENS) -> Verification:
    """The fp32 graph beside transformers, as `verify` does; beside NumPy where transformers cannot."""
    checkpoint = Checkpoint.open(folder)
    config, graph = checkpoint.config, scratch / "model.onnx"
    write_graph(checkpoint, Variant.FP32, graph)
    with (scratch / "logits").open("w+b") as logits:
        if config.head.kind is Kind.LM:
            shape = checkpoint.config.architecture
            answers = language_answers(graph, shape, PROMPTS, tokens, logits, lambda share: None)
        else:
            answers = head_answers(graph, config, PROMPTS, lambda share: None)
        # transformers has no attention to both sides, and no bag of n-grams.
        oracle = NumpyOracle if config.bidirectional or config.ngrams else TransformersOracle
        return compare(oracle(folder, config), answers, config, lambda share: None)


def check(found: Verification) -> None:
    assert found.texts == 50
    assert found.max_logit_difference <= LIMIT
    assert (found.agreeing, found.tied) == (50, 0)


@pytest.mark.timeout(600)  # some twenty times what it takes: how busy the machine is decides nothing
def test_greedy_tokens_of_124_million_weights_equal_torch(gpt2: Path, tmp_path: Path) -> None:
    check(against_torch(gpt2, tmp_path, tokens=16))


@pytest.mark.parametrize("changes", HEADS.values(), ids=HEADS.keys())
def test_labels_of_gpt2s_width_equal_torch(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    write_checkpoint("gpt2", folder, n_layer=2, vocab_size=8192, pad_token_id=1, **changes)
    # transformers finds a head only beside a body of this prefix.
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({BODY.sub(r"transformer.\1", name): tensor for name, tensor in tensors.items()}, path)
    check(against_torch(folder, tmp_path))


@pytest.mark.parametrize("name", sorted(path.name for path in MODELS.iterdir()))
def test_bundled_models_equal_a_reference(name: str, tmp_path: Path) -> None:
    check(against_torch(MODELS / name, tmp_path))


def test_int8_answers_alone_as_among_sixteen_others(gpt2: Path, tmp_path: Path) -> None:
    """Bit for bit, with the threads and the packed weights of a server; prefill, then decoding."""
    checkpoint = Checkpoint.open(gpt2)
    write_graph(checkpoint, Variant.INT8, tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    prompts = [random.integers(0, 50257, 2 + 3 * row).tolist() for row in range(OTHERS + 1)]
    tokens = random.integers(0, 50257, (DECODED, len(prompts)))
    session = LanguageSession(
        tmp_path / "model.onnx", Variant.INT8, checkpoint.config.architecture, len(prompts), 64, lean=False
    )

    def answer(rows: slice) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        """Logits `[rows, vocab]` of the prompts' last tokens and of each token after them."""
        lengths = np.array([len(prompt) for prompt in prompts[rows]], np.int64)
        found = [session.prefill(prompts[rows])]
        for step, following in enumerate(tokens[:, rows]):
            found.append(session.decode(following, lengths + step))
        return found

    together = answer(slice(0, len(prompts)))
    for row in range(len(prompts)):
        for many, alone in zip(together, answer(slice(row, row + 1)), strict=True):
            assert np.array_equal(many[row], alone[0])
