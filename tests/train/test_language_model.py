"""A micro training run, packing, and scoring in windows."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2LMHeadModel

from tests.train.tiny import SENTENCES, tiny_config, tiny_tokenizer
from train.checkpoint import save_checkpoint
from train.language_model import (
    PackedMixture,
    PackedStream,
    Stage,
    continue_text,
    negative_log_likelihood,
    token_loss,
    train_language_model,
)
from train.optimization import Schedule
from train.trainer import Loop


def tiny_tokens() -> list[int]:
    encodings = tiny_tokenizer().encode_batch(SENTENCES)
    return [token for encoding in encodings for token in (0, *encoding.ids)]


def test_loss_falls_and_the_best_state_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    model = GPT2LMHeadModel(config)
    batches = PackedMixture([tiny_tokens()], [Stage(40, 16, (1.0,))], tokens=64, seed=0)
    rows = batches[0]["rows"]
    before = token_loss(model, rows).item()
    found: list[float] = []

    def held_out() -> dict[str, float]:
        found.append(token_loss(model, rows).item())
        return {"loss": found[-1]}

    loop = Loop(tmp_path / "run", Schedule(40, warmup=5), evaluate_every=10)
    best = train_language_model(model, batches, held_out, loop, compiled=False)["loss"]
    assert best == min(found) < 0.7 * before
    assert token_loss(model.eval(), rows).item() == pytest.approx(best)

    save_checkpoint(tmp_path / "lm", model, config, tokenizer, architectures=["GPT2LMHeadModel"])
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "lm", dtype=torch.float32)
    assert token_loss(loaded.eval(), rows).item() == pytest.approx(best, abs=0.01)
    assert continue_text(loaded, tokenizer, "The fox", tokens=5)


def test_packed_rows_cover_a_source_once_per_epoch() -> None:
    stream = PackedStream(range(100), 10, np.random.default_rng(0))
    starts = sorted(stream.next_start(10) for _ in range(9))
    assert [later - earlier for earlier, later in pairwise(starts)] == [10] * 8
    assert stream.row(starts[0], 10).tolist() == list(range(starts[0], starts[0] + 11))


def test_a_short_source_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        PackedStream(range(10), 8, np.random.default_rng(0))


def test_a_mixture_follows_its_stages_and_a_longer_run_begins_with_the_same_batches() -> None:
    sources = [list(range(200)), list(range(1000, 1400))]
    first = Stage(6, 8, (0.5, 0.5))
    mixture = PackedMixture(sources, [first, Stage(10, 32, (0.0, 1.0))], tokens=64, seed=3)
    assert len(mixture) == 10
    assert [tuple(mixture[index]["rows"].shape) for index in (0, 5, 6)] == [(8, 9), (8, 9), (2, 33)]
    assert {bool(row[0] >= 1000) for index in range(6) for row in mixture[index]["rows"]} == {False, True}
    assert all((mixture[index]["rows"] >= 1000).all() for index in range(6, 10))
    longer = PackedMixture(sources, [first, Stage(20, 32, (1.0, 0.0))], tokens=64, seed=3)
    assert all(torch.equal(mixture[index]["rows"], longer[index]["rows"]) for index in range(6))


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
