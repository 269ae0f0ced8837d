"""A micro training run, packing, and scoring in windows."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2LMHeadModel

from export.checkpoint.config import read_config
from tests.train.tiny import SENTENCES, tiny_config, tiny_tokenizer
from train.checkpoint import save_checkpoint, save_sampling
from train.language_model import (
    LOOPS_FADE,
    PackedMixture,
    PackedStream,
    Stage,
    continue_text,
    negative_log_likelihood,
    repeat_passage,
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
    save_sampling(tmp_path / "lm", config, top_p=0.5)
    assert read_config(tmp_path / "lm").sampling == {"top_p": 0.5}
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "lm", dtype=torch.float32)
    assert (loaded.generation_config.do_sample, loaded.generation_config.top_p) == (True, 0.5)
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


def test_a_passage_repeats_itself_to_the_end_of_its_row() -> None:
    row = np.array([5, 1, 9, 3, 4, 9, 6, 7, 8, 2, 2])
    found, begin, period = repeat_passage(row, {9}, np.random.default_rng(0))
    assert (found.tolist(), begin, period) == ([5, 1, 9, 3, 4, 9, 3, 4, 9, 3, 4], 6, 3)
    found, begin, period = repeat_passage(row, {8}, np.random.default_rng(0))
    assert (found.tolist(), begin, period) == (row.tolist(), len(row), 0)


def test_some_rows_of_a_stage_with_loops_repeat_a_passage() -> None:
    stages = [Stage(1, 16, (1.0,)), Stage(9, 32, (1.0,), loops=0.5)]
    source = [value % 13 for value in range(1000)]
    plain = PackedMixture([source], [stages[0], Stage(9, 32, (1.0,))], tokens=128, seed=1)
    mixture = PackedMixture([source], stages, tokens=128, seed=1, ends=(3, 8))
    assert set(mixture[0]) == {"rows"}
    changed = 0
    for index in range(1, 9):
        for row, own, (begin, period) in zip(
            mixture[index]["rows"], plain[index]["rows"], mixture[index]["repeats"].tolist(), strict=True
        ):
            assert torch.equal(row[:begin], own[:begin])
            assert torch.equal(row[begin:], row[begin - period : len(row) - period])
            changed += begin < len(row)
        assert torch.equal(mixture[index]["rows"], mixture[index]["rows"])
    assert 8 < changed < 24


def test_a_repeated_token_should_be_less_likely_than_it_was_one_time_before() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(tiny_config(tiny_tokenizer())).eval()
    rows = torch.tensor([[7, 1, 2, 3, 2, 3, 2], [4, 5, 6, 7, 8, 9, 10]])
    found = token_loss(model, rows, torch.tensor([[4, 2], [7, 0]])).item()
    probabilities = model(rows[:, :-1]).logits.softmax(-1).gather(2, rows[:, 1:, None])[:, :, 0].tolist()
    losses = [-math.log(value) for value in (*probabilities[0][:3], *probabilities[1])]
    for place in (3, 4, 5):  # targets 4, 5 and 6 of the first row
        gap = abs(probabilities[0][place] - LOOPS_FADE * probabilities[0][place - 2])
        losses.append(-math.log(1 - gap))
    assert found == pytest.approx(sum(losses) / 12, rel=1e-5)


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
