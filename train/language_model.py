"""Training and scoring of a GPT-2 language model on packed sequences, and samples of its text.

Forward passes run under bf16 autocast, weights stay fp32.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from train.fit import fit
from train.optimization import Schedule


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
    loss_of = torch.compile(token_loss) if compiled else token_loss

    def parts() -> Iterator[Iterator[Tensor]]:
        for start in range(0, schedule.steps, evaluate_every):
            yield itertools.islice(batches, min(evaluate_every, schedule.steps - start))

    best = fit(
        model,
        parts(),
        lambda rows: loss_of(model, rows),
        lambda: {"figure": evaluate(model)},
        schedule,
        score=lambda figures: -figures["figure"],
        on_better=None if on_better is None else functools.partial(on_better, model),
    )
    return best["figure"]


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


@torch.no_grad()
def continue_text(
    model: GPT2LMHeadModel,
    tokenizer: Tokenizer,
    prompt: str,
    tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    seed: int = 0,
) -> str:
    """A sample for the card, without the prompt: greedy at temperature 0, else drawn among `top_k`."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    ids = tokenizer.encode(prompt).ids
    for _ in range(tokens):
        logits = model(torch.tensor([ids[-model.config.n_positions :]])).logits[0, -1].float()
        if temperature:
            best = logits.topk(top_k)
            drawn = torch.multinomial((best.values / temperature).softmax(dim=-1), 1, generator=generator)
            token = int(best.indices[drawn])
        else:
            token = int(logits.argmax())
        if token == model.config.eos_token_id:
            break
        ids.append(token)
    text: str = tokenizer.decode(ids)
    return text[len(prompt) :]
