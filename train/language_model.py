"""Training and scoring of a GPT-2 language model on packed sequences, and samples of its text.

Forward passes run under bf16 autocast, weights stay fp32.
"""

import os
from collections.abc import Callable, Collection, Sequence
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

# How likely a token of a repeated passage should be, as a share of how likely it was one time before.
LOOPS_FADE = 0.5


@dataclass(frozen=True)
class Stage:
    """What batches are made of until step `until`: rows of `length` tokens, and the shares of the sources.

    `loops` is the share of rows that repeat one of their passages to their end, see `token_loss`.
    """

    until: int
    length: int
    shares: tuple[float, ...]
    loops: float = 0.0


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


def repeat_passage(
    row: NDArray[np.int64], ends: Collection[int], generator: np.random.Generator
) -> tuple[NDArray[np.int64], int, int]:
    """The row up to the end of one of its passages, then this passage again and again, to the same length.

    A passage is what stands between two of the tokens `ends`, one to three times. Returns the row, where the
    second time begins, and the tokens of the passage; the row as it is, its length and 0 where it has none.
    """
    borders = np.flatnonzero(np.isin(row, list(ends))) + 1
    if len(borders) < 2:
        return row, len(row), 0
    first = int(generator.integers(len(borders) - 1))
    last = min(first + int(generator.integers(1, 4)), len(borders) - 1)
    start, end = int(borders[first]), int(borders[last])
    return np.concatenate([row[:end], np.resize(row[start:end], len(row) - end)]), end, end - start


class PackedMixture(Dataset[Batch]):
    """One batch per step: `rows` [rows, length + 1] int64, as many rows as fit into `tokens` tokens.

    Row by row the source is drawn with the shares of the stage. The batches of the first steps stay the same
    when later stages change. In a stage with loops, `repeats` [rows, 2] int64 holds where a row begins to
    repeat itself and the length of what it repeats. Raises ValueError for a source shorter than two rows.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[int]],
        stages: Sequence[Stage],
        tokens: int,
        seed: int,
        ends: Collection[int] = (),
    ) -> None:
        """`ends` are the tokens that end a passage."""
        generator = np.random.default_rng(seed)
        longest = max(stage.length for stage in stages)
        self._streams = [PackedStream(source, longest, generator) for source in sources]
        self._seed, self._ends = seed, ends
        self._plan: list[tuple[Stage, list[tuple[int, int]]]] = []
        for stage in stages:
            shares = np.asarray(stage.shares, dtype=np.float64) / sum(stage.shares)
            for _ in range(len(self._plan), stage.until):
                chosen = generator.choice(len(sources), size=max(1, tokens // stage.length), p=shares)
                rows = [(int(i), self._streams[i].next_start(stage.length)) for i in chosen]
                self._plan.append((stage, rows))

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> Batch:
        stage, chosen = self._plan[index]
        rows = [self._streams[i].row(start, stage.length) for i, start in chosen]
        if not stage.loops:
            return {"rows": torch.from_numpy(np.stack(rows))}
        generator = np.random.default_rng((self._seed, index))
        repeats = np.tile([stage.length + 1, 0], (len(rows), 1))
        for place in np.flatnonzero(generator.random(len(rows)) < stage.loops):
            rows[place], *repeats[place] = repeat_passage(rows[place], self._ends, generator)
        return {"rows": torch.from_numpy(np.stack(rows)), "repeats": torch.from_numpy(repeats)}


def token_loss(model: GPT2LMHeadModel, rows: Tensor, repeats: Tensor | None = None) -> Tensor:
    """Mean cross-entropy (nats) of predicting rows[:, 1:] from rows[:, :-1].

    A token of a passage that is repeated (`repeats`, of PackedMixture) has another loss: the further its
    probability is from LOOPS_FADE of what it was one time before, the higher. So a loop becomes less likely
    with each time, and greedy text leaves it (Xu et al., Learning to Break the Loop, 2022, arXiv 2206.02369).
    """
    hidden = model.transformer(rows[:, :-1], use_cache=False)[0]
    logits = F.linear(hidden, model.transformer.wte.weight)
    if repeats is None:
        return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    losses = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
    losses = losses.view(len(rows), -1).float()
    places = torch.arange(1, rows.shape[1], device=rows.device)
    before = (places - repeats[:, 1:] - 1).clamp_min(0)
    likely = (-losses).exp()
    wanted = LOOPS_FADE * likely.detach().gather(1, before)
    faded = -torch.log1p(-(likely - wanted).abs().clamp_max(1 - 1e-4))
    return torch.where(places >= repeats[:, :1], faded, losses).mean()


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
        lambda batch: loss_of(model, batch["rows"], batch.get("repeats")),
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
        seen = torch.tensor([ids[-model.config.n_positions :]], device=model.device)
        logits = model(seen).logits[0, -1].float().cpu()
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
