"""Training and scoring of a GPT-2 language model on packed sequences, and samples of its text.

Forward passes run under bf16 autocast, weights stay fp32.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel

from train.batching import Batch
from train.evaluation.windows import windows
from train.trainer import Figures, Loop, fit, sum_of


@dataclass(frozen=True)
class Stage:
    """What batches are made of until step `until`: rows of `length` tokens, and the shares of the sources."""

    until: int
    length: int
    shares: tuple[float, ...]


class PackedStream:
    """Rows of `length + 1` tokens of one source: shuffled blocks, cut at a new offset each epoch."""

    def __init__(self, tokens: Sequence[int], longest: int, generator: np.random.Generator) -> None:
        if len(tokens) < 2 * longest + 1:
            raise ValueError(f"a source of {len(tokens)} tokens is too short for rows of {longest}")
        self._tokens = np.asarray(tokens, dtype=np.int64)
        self._generator = generator
        self._starts: list[int] = []
        self._length = 0

    def next_start(self, length: int) -> int:
        """Where the next row begins. Another length begins a new epoch."""
        if not self._starts or length != self._length:
            offset = int(self._generator.integers(length))
            starts = np.arange(offset, len(self._tokens) - length, length)
            self._starts, self._length = self._generator.permutation(starts).tolist(), length
        return self._starts.pop()

    def row(self, start: int, length: int) -> NDArray[np.int64]:
        return self._tokens[start : start + length + 1]


class PackedMixture(Dataset[Batch]):
    """One batch per step: `rows` [rows, length + 1] int64, as many rows as fit into `tokens` tokens.

    Row by row the source is drawn with the shares of the stage. The batches of the first steps stay the same
    when later stages change. Raises ValueError for a source shorter than two rows.
    """

    def __init__(
        self, sources: Sequence[Sequence[int]], stages: Sequence[Stage], tokens: int, seed: int
    ) -> None:
        generator = np.random.default_rng(seed)
        longest = max(stage.length for stage in stages)
        self._streams = [PackedStream(source, longest, generator) for source in sources]
        self._plan: list[tuple[int, list[tuple[int, int]]]] = []
        for stage in stages:
            shares = np.asarray(stage.shares, dtype=np.float64) / sum(stage.shares)
            for _ in range(len(self._plan), stage.until):
                chosen = generator.choice(len(sources), size=max(1, tokens // stage.length), p=shares)
                rows = [(int(i), self._streams[i].next_start(stage.length)) for i in chosen]
                self._plan.append((stage.length, rows))

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> Batch:
        length, rows = self._plan[index]
        return {
            "rows": torch.from_numpy(np.stack([self._streams[i].row(start, length) for i, start in rows]))
        }


def token_loss(model: GPT2LMHeadModel, rows: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of predicting rows[:, 1:] from rows[:, :-1]."""
    hidden = model.transformer(rows[:, :-1], use_cache=False)[0]
    logits = F.linear(hidden, model.transformer.wte.weight)
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def train_language_model(
    model: GPT2LMHeadModel,
    batches: Dataset[Batch],
    evaluate: Callable[[], Figures],
    loop: Loop,
    compiled: bool = True,
) -> Figures:
    """Train in place; ends with the weights of the lowest sum of held-out figures, which are returned."""
    if compiled:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str((loop.folder / "compiled").resolve())
    loss_of = torch.compile(token_loss, dynamic=False) if compiled else token_loss
    return fit(
        model,
        batches,
        lambda batch: loss_of(model, batch["rows"]),
        evaluate,
        loop,
        score=lambda figures: -sum_of(figures),
    )


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
        tokens = torch.tensor([separator, *document], device=model.device)
        # The last token of a window is not read, but predicted.
        for part in windows(len(tokens), window + 1):
            logits = model(tokens[None, part.start : part.end - 1]).logits[0].float()
            scored = tokens[part.scored : part.end]
            losses = F.cross_entropy(logits[part.scored - part.start - 1 :], scored, reduction="sum")
            total += losses.item()
            count += len(scored)
    return total, count


def make_config(
    vocab_size: int,
    layers: int,
    width: int,
    end_of_text: int,
    positions: int = 512,
    dropout: float = 0.1,
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
        embd_pdrop=dropout,
        resid_pdrop=dropout,
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
