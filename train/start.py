"""What a training begins with: the weights and tokenizer of a checkpoint, or random weights and a new one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config

from export.checkpoint.config import ModelConfig
from export.checkpoint.config_reader import CONFIG_FILE
from export.checkpoint.folder import Checkpoint, expected_shapes
from export.errors import ExportError
from export.members import ArchiveLimits
from export.source import open_source
from train.data import Kind
from train.language_model import make_config
from train.options import Options
from train.stored import fetch_stored, read_stored
from train.tokenizer import END_OF_TEXT_ID, PADDING, end_with_end_of_text, train_tokenizer

# Of the weights' names in a checkpoint, those of heads; all others are of the body.
HEADS = ("lm_head.", "score.", "classifier.", "intent_head.", "slot_head.", "slot_transitions.", "ngrams.")


@dataclass(frozen=True)
class Start:
    """An architecture with a tokenizer; `tensors` are its weights by name, without `transformer.`."""

    config: GPT2Config
    tokenizer: Tokenizer
    tensors: Mapping[str, Tensor]
    # config.json's own keys and labels; None where the weights are random.
    source: ModelConfig | None
    origin: str

    @property
    def kind(self) -> Kind | None:
        """The kind of the checkpoint; None where the weights are random."""
        return None if self.source is None else self.source.head.kind

    def load_into(self, model: torch.nn.Module, heads: bool) -> None:
        """Copy the weights of the body, and with `heads` all of them; others keep their random values."""
        prefixed = {
            name if name.startswith(HEADS) else f"transformer.{name}": tensor
            for name, tensor in self.tensors.items()
            if heads or not name.startswith(HEADS)
        }
        model.load_state_dict(prefixed, strict=False)


def load_weights(folder: Path, model: torch.nn.Module) -> None:
    """Put the weights of a checkpoint folder into a model of the same shape. Raises CheckpointError."""
    checkpoint = Checkpoint.open(folder)
    Start(model.config, checkpoint.tokenizer, _tensors(checkpoint), checkpoint.config, "").load_into(
        model, heads=True
    )


def open_start(kind: Kind, options: Options, texts: Iterable[str]) -> Start:
    """The start that the options ask for; a new tokenizer learns from `texts`. ExportError, ValueError."""
    if options.start is None:
        return _new_start(kind, options, texts)
    with open_folder(options.start, options.url) as (folder, origin):
        checkpoint = Checkpoint.open(folder)
        written = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        written.pop("slot_transitions", None)  # they belong to the old tags; a training fits its own
        config = GPT2Config(**written)
        tensors = _tensors(checkpoint)
        if checkpoint.config.eos_token_id is None:
            raise ExportError(f"{options.start}: it has no token that ends a text", field="from")
        config.eos_token_id = config.bos_token_id = checkpoint.config.eos_token_id
        config.resid_pdrop = config.embd_pdrop = options.dropout
        # As in `make_config`: both only choose faster kernels.
        config.attn_pdrop = 0.0
        if config.activation_function == "gelu_new":
            config.activation_function = "gelu_pytorch_tanh"
    tokenizer = checkpoint.tokenizer
    if kind is not checkpoint.config.head.kind:
        _prepare(kind, config, tokenizer)
    return Start(config, tokenizer, tensors, checkpoint.config, origin)


def _new_start(kind: Kind, options: Options, texts: Iterable[str]) -> Start:
    tokenizer = train_tokenizer(texts, options.vocabulary, lowercase=kind is not Kind.LM)
    if kind is Kind.CLASSIFIER:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    config = make_config(
        tokenizer.get_vocab_size(), options.layers, options.width, END_OF_TEXT_ID, options.context
    )
    config.resid_pdrop = config.embd_pdrop = options.dropout
    _prepare(kind, config, tokenizer)
    return Start(config, tokenizer, {}, None, "random weights")


def _prepare(kind: Kind, config: GPT2Config, tokenizer: Tokenizer) -> None:
    """Padding and the end of a text, as a classifier and an nlu model read them."""
    if kind is Kind.CLASSIFIER:
        end_with_end_of_text(tokenizer, config.eos_token_id)
        # transformers reads the label at the last token that is not padding, so padding has its own token.
        config.pad_token_id = tokenizer.token_to_id(PADDING)
    elif kind is Kind.NLU:
        tokenizer.post_processor = None
        config.pad_token_id = config.eos_token_id


@contextmanager
def open_folder(source: str, url: str) -> Iterator[tuple[Path, str]]:
    """The checkpoint's folder, while the block lasts, and what to call it.

    `source` is a path; else a model of the appliance at `url`, or of the store of LMAAS_HOME; else a name on
    the hub. Raises ExportError and ClientError.
    """
    with TemporaryDirectory(prefix="lmaas-train-") as scratch:
        stored = None
        if not Path(source).exists():
            stored = fetch_stored(source, url, Path(scratch)) or read_stored(source, Path(scratch))
        if stored is not None:
            yield stored, f"the stored model {source}"
            return
        with open_source(source, Path(scratch) / "unpacked", ArchiveLimits()) as found:
            yield found.folder, found.origin


def _tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    names = expected_shapes(checkpoint.config)
    return {name: torch.from_numpy(checkpoint.weight(name).copy()) for name in names}
