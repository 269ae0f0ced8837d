"""Training and scoring of a GPT-2 language model on packed sequences.

Forward passes run under bf16 autocast, weights stay fp32.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from train.optimization import Schedule, make_optimizers, take_step

log = logging.getLogger(__name__)


class PackedStream:
    """Endless rows of `length + 1` tokens of one source: shuffled blocks, cut at a new offset each epoch."""

    def __init__(self, tokens: Sequence[int], length: int, generator: np.random.Generator) -> None:
        if len(tokens) < 2 * length + 1:
            raise ValueError(f"a source of {len(tokens)} tokens is too short for rows of {length}")
        self._tokens = np.asarray(tokens, dtype=np.int64)
        self._length = length
        self._generator = generator
        self._starts: list[int] = []

    def next_row(self) -> NDArray[np.int64]:
        if not self._starts:
            offset = int(self._generator.integers(self._length))
            starts = np.arange(offset, len(self._tokens) - self._length, self._length)
            self._starts = self._generator.permutation(starts).tolist()
        start = self._starts.pop()
        return self._tokens[start : start + self._length + 1]


def mixed_batches(
    streams: Sequence[PackedStream],
    weights: Callable[[int], Sequence[float]],
    rows: int,
    generator: np.random.Generator,
) -> Iterator[Tensor]:
    """Batches [rows, length + 1] int64; row by row the source is drawn with `weights(step)`."""
    step = 0
    while True:
        share = np.asarray(weights(step), dtype=np.float64)
        chosen = generator.choice(len(streams), size=rows, p=share / share.sum())
        yield torch.from_numpy(np.stack([streams[index].next_row() for index in chosen]))
        step += 1


def token_loss(model: GPT2LMHeadModel, rows: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of predicting rows[:, 1:] from rows[:, :-1]."""
    hidden = model.transformer(rows[:, :-1], use_cache=False)[0]
    logits = F.linear(hidden, model.transformer.wte.weight)
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def train_language_model(
    model: GPT2LMHeadModel,
    batches: Iterator[Tensor],
    schedule: Schedule,
    evaluate: Callable[[GPT2LMHeadModel], float],
    evaluate_every: int = 250,
    on_better: Callable[[GPT2LMHeadModel], None] | None = None,
    compiled: bool = True,
) -> float:
    """Train in place; ends with the weights of the lowest held-out figure, which is returned."""
    optimizers = make_optimizers(model, schedule)
    loss_of = torch.compile(token_loss) if compiled else token_loss
    best, best_state = math.inf, copy.deepcopy(model.state_dict())
    started = time.monotonic()
    for step in range(schedule.steps):
        model.train()
        rows = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, rows)
        take_step(model, loss, optimizers, schedule, step)
        if step % 25 == 0:
            speed = (step + 1) * rows[:, 1:].numel() / (time.monotonic() - started)
            log.info("step %d loss %.3f %.0f tokens/s", step, loss.item(), speed)
        if (step + 1) % evaluate_every == 0 or step + 1 == schedule.steps:
            figure = evaluate(model)
            log.info("step %d held-out %.4f", step + 1, figure)
            if figure < best:
                best, best_state = figure, copy.deepcopy(model.state_dict())
                if on_better is not None:
                    on_better(model)
    model.load_state_dict(best_state)
    return best


@torch.no_grad()
def negative_log_likelihood(
    model: GPT2LMHeadModel, documents: Sequence[Sequence[int]], separator: int, window: int = 512
) -> tuple[float, int]:
    """Total nats and number of scored tokens over documents, each one preceded by `separator`.

    Windows overlap by half: each token after the first window sees at least window / 2 tokens before it.
    """
    model.eval()
    total, count = 0.0, 0
    for document in documents:
        tokens = torch.tensor([separator, *document])
        done = 1
        while done < len(tokens):
            start = 0 if done == 1 else done - window // 2
            end = min(start + window, len(tokens) - 1)
            logits = model(tokens[None, start:end]).logits[0].float()
            losses = F.cross_entropy(logits, tokens[start + 1 : end + 1], reduction="none")
            fresh = losses[done - start - 1 :]
            total += fresh.sum().item()
            count += len(fresh)
            done = end + 1
    return total, count


def make_config(
    vocab_size: int, layers: int, width: int, end_of_text: int, positions: int = 512
) -> GPT2Config:
    """A GPT-2 configuration with heads of 64 numbers and the given `<|endoftext|>` id."""
    return GPT2Config(
        vocab_size=vocab_size,
        n_positions=positions,
        n_embd=width,
        n_layer=layers,
        n_head=width // 64,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        # Attention dropout would switch off the fused attention kernel.
        attn_pdrop=0.0,
        # The same function as gelu_new, in one fused kernel; save_checkpoint writes the standard name.
        activation_function="gelu_pytorch_tanh",
    )
