"""Tiny checkpoints with random weights, written by transformers and exported by this project."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2Model,
)

from export.pipeline import export_checkpoint
from runtime.contract import Variant

END_OF_TEXT = "<|endoftext|>"
EXCLAMATION_MARK = 1  # its token
CONTEXT = 128
VOCABULARY = 300
INTENTS = ("PlayMusic", "GetWeather", "BookRestaurant")
SLOTS = ("O", "B-artist", "I-artist", "B-city", "I-city")


@dataclass(frozen=True)
class Tiny:
    """An artifact beside the torch module and the tokenizer that it was made from."""

    artifact: Path
    model: nn.Module
    tokenizer: tokenizers.Tokenizer


class JointNlu(nn.Module):
    """A GPT-2 body with the two heads of `GPT2ForJointNlu`."""

    def __init__(self, config: GPT2Config, transitions: bool) -> None:
        super().__init__()
        self.transformer = GPT2Model(config)
        self.intent_head = nn.Linear(config.n_embd, len(INTENTS))
        self.slot_head = nn.Linear(config.n_embd, len(SLOTS))
        if transitions:
            self.slot_transitions = nn.Embedding(len(SLOTS) + 1, len(SLOTS))


def train_tokenizer(lowercase: bool = False, template: bool = False) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["play the new song by the band in new york tonight please"] * 3, trainer)
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {END_OF_TEXT}",
            pair=f"$A {END_OF_TEXT} $B:1 {END_OF_TEXT}:1",
            special_tokens=[(END_OF_TEXT, 0)],
        )
    return tokenizer


def configure(**more: Any) -> GPT2Config:
    """Without a pad token, with which transformers reads a classifier's logits at the very last token."""
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=64,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        **more,
    )


def with_random_weights(model: nn.Module) -> nn.Module:
    """Larger than at the start of training, so that labels differ from text to text."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def finish(folder: Path, model: nn.Module, tokenizer: tokenizers.Tokenizer) -> Tiny:
    tokenizer.save(str(folder / "checkpoint" / "tokenizer.json"))
    artifact = folder / "artifact"
    export_checkpoint(folder / "checkpoint", artifact, name="tiny", variants=[Variant.FP32, Variant.INT8])
    return Tiny(artifact, model, tokenizer)


def classifier(
    folder: Path,
    labels: int = 3,
    problem_type: str = "single_label_classification",
    padding: int | None = None,
    template: bool = True,
) -> Tiny:
    config = configure(num_labels=labels, problem_type=problem_type, pad_token_id=padding)
    model = with_random_weights(GPT2ForSequenceClassification(config))
    model.save_pretrained(folder / "checkpoint")  # type: ignore[operator]
    return finish(folder, model, train_tokenizer(template=template))


def token_classifier(folder: Path) -> Tiny:
    config = configure(id2label=dict(enumerate(SLOTS)), label2id={name: i for i, name in enumerate(SLOTS)})
    model = with_random_weights(GPT2ForTokenClassification(config))
    model.save_pretrained(folder / "checkpoint")  # type: ignore[operator]
    return finish(folder, model, train_tokenizer())


def joint(folder: Path, echo: bool) -> Tiny:
    """With `echo`, and else with transitions of its slots."""
    config = configure()
    model = with_random_weights(JointNlu(config, transitions=not echo))
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    written = config.to_diff_dict() | {
        "architectures": ["GPT2ForJointNlu"],
        "id2label": {str(index): name for index, name in enumerate(INTENTS)},
        "slot_labels": list(SLOTS),
        "nlu_echo": echo,
        "slot_transitions": not echo,
    }
    (checkpoint / "config.json").write_text(json.dumps(written))
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    return finish(folder, model, train_tokenizer(lowercase=True))
