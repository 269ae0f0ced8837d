"""GPT-2 with an intent head and a slot head: the module, its input layout, loading and prediction.

A token of GPT-2 attends only to tokens before it. So that each word is tagged with the whole utterance before
it, the input with `nlu_echo` is `ids + [eos] + ids`: slots are read from the second copy, the intent from the
last token.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
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
        self.slot_transitions: nn.Embedding | None = None
        if getattr(config, "slot_transitions", False):
            self.slot_transitions = nn.Embedding(slots + 1, slots)
        for head in (self.intent_head, self.slot_head):
            nn.init.normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    @property
    def transitions(self) -> NDArray[np.float32] | None:
        """[slots + 1, slots]: the score of each tag after each other one; the last row: of the first tag."""
        if self.slot_transitions is None:
            return None
        found: NDArray[np.float32] = self.slot_transitions.weight.detach().float().cpu().numpy()
        return found

    def set_transitions(self, scores: NDArray[np.float32] | None) -> None:
        """Replace the transitions, or take them away. The loss does not read them."""
        self.config.slot_transitions = scores is not None
        if scores is None:
            self.slot_transitions = None
            return
        table = nn.Embedding(len(scores), len(scores) - 1, device=self.slot_head.weight.device)
        with torch.no_grad():
            table.weight.copy_(torch.from_numpy(scores))
        self.slot_transitions = table

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


def predict(joint: JointCheckpoint, utterances: Sequence[Sequence[str]]) -> list[Prediction]:
    """Intents and word-level tags of utterances given as words. Tags are decoded as in the engine."""
    read = read_utterances(joint, utterances)
    tags = best_tags(joint.slots, joint.model.transitions, [tagged for _, tagged in read])
    return [Prediction(intent, tuple(found)) for (intent, _), found in zip(read, tags, strict=True)]


def best_tags(
    slots: Sequence[str], transitions: NDArray[np.float32] | None, tagged: Iterable[NDArray[np.float32]]
) -> list[list[str]]:
    """The tags of each of the utterances, given the log probabilities [words, slots] of their words' tags."""
    rules = TagRules(slots, transitions)
    return [[slots[tag] for tag in rules.best_path(scores)] for scores in tagged]


@torch.no_grad()
def read_utterances(
    joint: JointCheckpoint, utterances: Sequence[Sequence[str]], batch: int = 128
) -> list[tuple[str, NDArray[np.float32]]]:
    """The intent, and the log probabilities [words, slots] of each word's tags.

    Utterances are given as words, which are joined by single spaces.
    """
    rows, firsts = [], []
    for words in utterances:
        encoding = joint.tokenizer.encode(" ".join(words), add_special_tokens=False)
        owners = word_starts(word_spans(words), encoding.offsets)
        rows.append(layout(encoding.ids, joint.model.config.eos_token_id, joint.echo))
        shift = len(encoding.ids) + 1 if joint.echo else 0
        firsts.append([shift + owners.index(index) for index in range(len(words))])
    results: dict[int, tuple[str, NDArray[np.float32]]] = {}
    joint.model.eval()
    for chosen in length_buckets([len(row) for row in rows], batch):
        device = joint.model.intent_head.weight.device
        ids = pad([rows[index] for index in chosen], joint.model.config.eos_token_id).to(device)
        lengths = torch.tensor([len(rows[index]) for index in chosen], device=device)
        hidden = joint.model.hidden(ids, lengths)
        intents = joint.model.intent_logits(hidden, ids, lengths).argmax(dim=-1).tolist()
        for place, index in enumerate(chosen):
            tagged = joint.model.slot_head(hidden[place, firsts[index]]).float().log_softmax(dim=-1)
            results[index] = joint.intents[intents[place]], tagged.cpu().numpy()
    return [results[index] for index in range(len(rows))]
