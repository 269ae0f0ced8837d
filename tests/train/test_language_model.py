"""A micro training run, packing, and scoring in windows."""

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2LMHeadModel

from tests.train.tiny import SENTENCES, tiny_config, tiny_tokenizer
from train.checkpoint import save_checkpoint
from train.language_model import (
    PackedStream,
    continue_text,
    mixed_batches,
    negative_log_likelihood,
    token_loss,
    train_language_model,
)
from train.optimization import Schedule


def tiny_batches(tokens: list[int]) -> Iterator[Tensor]:
    generator = np.random.default_rng(0)
    stream = PackedStream(tokens, 16, generator)
    return mixed_batches([stream], lambda _: [1.0], 4, generator)


def tiny_tokens() -> list[int]:
    encodings = tiny_tokenizer().encode_batch(SENTENCES)
    return [token for encoding in encodings for token in (0, *encoding.ids)]


def test_loss_falls_and_the_best_state_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    model = GPT2LMHeadModel(config)
    rows = next(tiny_batches(tiny_tokens()))
    before = token_loss(model, rows).item()
    saved: list[float] = []

    def held_out(current: GPT2LMHeadModel) -> float:
        saved.append(token_loss(current.eval(), rows).item())
        return saved[-1]

    batches = tiny_batches(tiny_tokens())
    schedule = Schedule(40, warmup=5)
    best = train_language_model(model, batches, schedule, held_out, evaluate_every=10, compiled=False)
    assert best == min(saved) < 0.7 * before
    assert token_loss(model.eval(), rows).item() == pytest.approx(best)

    save_checkpoint(tmp_path, model, config, tokenizer, architectures=["GPT2LMHeadModel"])
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float32)
    assert token_loss(loaded.eval(), rows).item() == pytest.approx(best, abs=0.01)
    assert continue_text(loaded, tokenizer, "The fox", tokens=5)


def test_packed_rows_cover_a_source_once_per_epoch() -> None:
    stream = PackedStream(range(100), 10, np.random.default_rng(0))
    starts = sorted(int(stream.next_row()[0]) for _ in range(9))
    assert [later - earlier for earlier, later in pairwise(starts)] == [10] * 8


def test_a_short_source_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        PackedStream(range(10), 8, np.random.default_rng(0))


def test_windowed_score_equals_the_plain_one_on_short_documents() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(tiny_config(tiny_tokenizer())).eval()
    document = tiny_tokens()[:30]
    nats, count = negative_log_likelihood(model, [document], separator=0)
    logits = model(torch.tensor([[0, *document]])).logits[0, :-1]
    expected = F.cross_entropy(logits, torch.tensor(document), reduction="sum").item()
    assert nats == pytest.approx(expected, rel=1e-5)
    assert count == 30


def test_windowed_score_counts_every_token_of_long_documents_once() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(tiny_config(tiny_tokenizer())).eval()
    nats, count = negative_log_likelihood(model, [tiny_tokens()[:50]], separator=0, window=16)
    assert count == 50
    # An untrained model is near the uniform distribution.
    assert nats / count == pytest.approx(math.log(model.config.vocab_size), rel=0.05)


def test_schedule_warms_up_and_decays_to_zero() -> None:
    schedule = Schedule(100, warmup=10)
    assert schedule.factor(0) == pytest.approx(0.1)
    assert schedule.factor(10) == pytest.approx(1.0)
    assert schedule.factor(100) == pytest.approx(0.0)
