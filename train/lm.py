"""Training of a language model on documents: packed rows, next-token loss, held-out perplexity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2LMHeadModel

from train.batching import Batch, EpochBatches, length_buckets, pad
from train.checkpoint import save_checkpoint
from train.data import TextRow
from train.data.preprocessing import pack
from train.language_model import negative_log_likelihood
from train.row_losses import cross_entropy
from train.trainer import Figures


class LmTraining:
    """A language model with the documents that it learns from: batches and loss for `fit`.

    Rows have `length` + 1 tokens: each predicts the `length` tokens after its first. With `packed`, documents
    fill rows without a gap, else each begins a row. `<|endoftext|>` comes before each document.
    """

    def __init__(
        self,
        model: GPT2LMHeadModel,
        tokenizer: Tokenizer,
        documents: Sequence[TextRow],
        *,
        batch: int,
        length: int,
        seed: int,
        packed: bool = True,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._seed = seed
        self._batch = batch
        self._length = length
        self.rows = list(self._pack(documents, packed))
        self.batches = EpochBatches(self._epoch, -(-len(self.rows) // batch))

    def _pack(self, documents: Sequence[TextRow], packed: bool) -> Iterator[list[int]]:
        end = self.model.config.eos_token_id
        encodings = self.tokenizer.encode_batch([row.text for row in documents], add_special_tokens=False)
        parts = [[encoding.ids for encoding in encodings]] if packed else [[each.ids] for each in encodings]
        for part in parts:
            yield from pack(part, self._length + 1, end)

    def _epoch(self, epoch: int) -> list[Batch]:
        generator = np.random.default_rng((self._seed, epoch))
        end = self.model.config.eos_token_id
        return [
            {
                "rows": pad([self.rows[index] for index in chosen], end),
                "lengths": torch.tensor([len(self.rows[index]) for index in chosen]),
            }
            for chosen in length_buckets([len(row) for row in self.rows], self._batch, generator)
        ]

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy (nats) of the next tokens; padding does not count."""
        rows, lengths = batch["rows"], batch["lengths"]
        inside = torch.arange(1, rows.shape[1], device=rows.device) < lengths[:, None]
        logits = self.model(rows[:, :-1], use_cache=False).logits
        return cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), inside.flatten())

    @property
    def module(self) -> GPT2LMHeadModel:
        return self.model

    def figures(self, rows: Sequence[TextRow]) -> dict[str, float]:
        """The loss (nats a token) and the perplexity of a token, over documents in overlapping windows."""
        self.model.eval()
        texts = [row.text for row in rows]
        ids = [each.ids for each in self.tokenizer.encode_batch(texts, add_special_tokens=False)]
        end = self.model.config.eos_token_id
        nats, count = negative_log_likelihood(self.model, ids, end, self._length)
        return {"loss": nats / count, "perplexity": math.exp(min(nats / count, 700.0))}

    def score(self, figures: Figures) -> float:
        """The negative loss."""
        return -figures["loss"]

    def save(self, out: Path) -> None:
        """Write the checkpoint folder."""
        names = ["GPT2LMHeadModel"]
        save_checkpoint(out, self.model, self.model.config, self.tokenizer, architectures=names)
