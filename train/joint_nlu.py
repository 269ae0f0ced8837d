"""GPT-2 with an intent head and a slot head: the module, its input layout, loading and prediction.

A token of GPT-2 attends only to tokens before it. So that each word is tagged with the whole utterance before
it, the input with `nlu_echo` is `ids + [eos] + ids`: slots are read from the second copy, the intent from the
last token.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

from runtime.heads.slots import TagRules
from train.batching import length_buckets, pad
from train.evaluation.slots import word_spans
from train.head_parts import body_states, make_bag


class JointNlu(nn.Module):
    """The body of GPT-2 and two linear heads on its last hidden states (after ln_f)."""

    def __init__(self, config: GPT2Config, intents: int, slots: int) -> None:
        super().__init__()
        self.config = config
        self.transformer = GPT2Model(config)
        self.ngrams = make_bag(config, intents)
        self.intent_head = nn.Linear(config.n_embd, intents)
        self.slot_head = nn.Linear(config.n_embd, slots)
        for head in (self.intent_head, self.slot_head):
            nn.init.normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    def hidden(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """rows [batch, seq] int64 with `lengths` tokens and padding -> [batch, seq, n_embd]."""
        return body_states(self.transformer, rows, lengths)

    def intent_logits(self, states: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        """[batch, intents]: of the states at each row's last token, and of the bag of n-grams."""
        last = states[torch.arange(len(states), device=states.device), lengths - 1]
        logits: Tensor = self.intent_head(last)
        return logits if self.ngrams is None else self.ngrams.added_to(logits, rows, lengths)


@dataclass(frozen=True)
class JointCheckpoint:
    """A loaded checkpoint folder: the module, its labels and its tokenizer."""

    model: JointNlu
    tokenizer: Tokenizer
    intents: tuple[str, ...]
    slots: tuple[str, ...]
    echo: bool


def load_joint(folder: Path) -> JointCheckpoint:
    """Read a GPT2ForJointNlu checkpoint; its fp16 tensors become fp32."""
    written = json.loads((folder / "config.json").read_text("utf-8"))
    intents = tuple(written["id2label"][str(index)] for index in range(len(written["id2label"])))
    slots = tuple(written["slot_labels"])
    model = JointNlu(GPT2Config.from_pretrained(folder, dtype=torch.float32), len(intents), len(slots))
    tensors = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(tensors)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return JointCheckpoint(model.eval(), tokenizer, intents, slots, bool(written["nlu_echo"]))


def layout(ids: Sequence[int], separator: int, echo: bool) -> list[int]:
    """The model's input for the token ids of one utterance."""
    return [*ids, separator, *ids] if echo else list(ids)


def word_starts(words: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """For each token the index of the word (a character span) that it belongs to, -1 outside of all words.

    A token belongs to the word of its last character, so a leading space does not count.
    """
    owners = []
    for _, end in offsets:
        inside = [index for index, (first, last) in enumerate(words) if first < end <= last]
        owners.append(inside[0] if inside else -1)
    return owners


@dataclass(frozen=True)
class Prediction:
    """The intent and one tag per word."""

    intent: str
    tags: tuple[str, ...]


@torch.no_grad()
def predict(
    joint: JointCheckpoint, utterances: Sequence[Sequence[str]], batch: int = 128
) -> list[Prediction]:
    """Intents and word-level tags of utterances given as words, which are joined by single spaces.

    Tags are decoded as in the engine.
    """
    rules = TagRules(joint.slots)
    rows, firsts = [], []
    for words in utterances:
        encoding = joint.tokenizer.encode(" ".join(words), add_special_tokens=False)
        owners = word_starts(word_spans(words), encoding.offsets)
        rows.append(layout(encoding.ids, joint.model.config.eos_token_id, joint.echo))
        shift = len(encoding.ids) + 1 if joint.echo else 0
        firsts.append([shift + owners.index(index) for index in range(len(words))])
    results: dict[int, Prediction] = {}
    joint.model.eval()
    for chosen in length_buckets([len(row) for row in rows], batch):
        device = joint.model.intent_head.weight.device
        ids = pad([rows[index] for index in chosen], joint.model.config.eos_token_id).to(device)
        lengths = torch.tensor([len(rows[index]) for index in chosen], device=device)
        hidden = joint.model.hidden(ids, lengths)
        intents = joint.model.intent_logits(hidden, ids, lengths).argmax(dim=-1).tolist()
        for place, index in enumerate(chosen):
            tagged = joint.model.slot_head(hidden[place, firsts[index]]).float().log_softmax(dim=-1)
            tags = rules.best_path(tagged.cpu().numpy())
            results[index] = Prediction(
                joint.intents[intents[place]], tuple(joint.slots[tag] for tag in tags)
            )
    return [results[index] for index in range(len(rows))]
