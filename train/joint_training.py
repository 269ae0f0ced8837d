"""Training of the joint intent and slot model, with augmentation for text as people type it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from train.batching import Batch, EpochBatches, length_buckets, pad
from train.checkpoint import save_checkpoint
from train.data import UtteranceRow
from train.evaluate import accuracy, span_f1
from train.evaluation.slots import word_spans
from train.heads import IGNORED, HeadRun, drop_tokens, next_token_loss
from train.joint_nlu import JointCheckpoint, JointNlu, layout, predict, word_starts
from train.trainer import Figures

# SNIPS has no apostrophes: "clinton s" was "clinton's". These endings are written after a word like this.
_CLITICS = {"s": "'s", "m": "'m", "d": "'d", "ll": "'ll", "re": "'re", "ve": "'ve", "t": "'t"}
# Slots with more values are open: names and titles. Their words can be invented, but for shorter ones.
MOST_VALUES = 150
SHORTEST_INVENTED = 4
_ENDINGS = (".", "?", "!", " .", " ?", " please", ", please", " please.")


@dataclass(frozen=True)
class TaggedText:
    """A text with the character spans of its words and a tag for each."""

    text: str
    spans: tuple[tuple[int, int], ...]
    tags: tuple[str, ...]


class SlotValues:
    """Values seen for each slot, to be exchanged between utterances of training."""

    def __init__(self, utterances: Sequence[UtteranceRow]) -> None:
        found: defaultdict[str, dict[tuple[str, ...], None]] = defaultdict(dict)
        for utterance in utterances:
            for name, first, end in _segments(utterance.tags):
                if name:
                    found[name][utterance.words[first:end]] = None
        self._values = {name: list(values) for name, values in found.items()}
        # Words of slots with more values than a training set can hold, such as titles and names.
        self._words = {
            name: sorted({word for value in values for word in value if len(word) >= SHORTEST_INVENTED})
            for name, values in found.items()
            if len(values) > MOST_VALUES
        }

    def exchange(
        self, utterance: UtteranceRow, run: "JointRun", generator: np.random.Generator
    ) -> UtteranceRow:
        """Replace slot values with probability `run.exchange` by others seen for the same slot.

        With probability `run.invented` the words of a name or title become words that no row has.
        """
        words: list[str] = []
        tags: list[str] = []
        for name, first, end in _segments(utterance.tags):
            value = utterance.words[first:end]
            if name:
                chosen = generator.random()
                if chosen < run.exchange:
                    value = self._values[name][int(generator.integers(len(self._values[name])))]
                elif chosen < run.exchange + run.invented and self._words.get(name):
                    value = tuple(self._invent(word, self._words[name], generator) for word in value)
            words.extend(value)
            tags.extend([f"B-{name}", *[f"I-{name}"] * (len(value) - 1)] if name else ["O"] * len(value))
        return replace(utterance, words=tuple(words), tags=tuple(tags))

    @staticmethod
    def _invent(word: str, words: Sequence[str], generator: np.random.Generator) -> str:
        """The beginning of one word and the end of another; short words and some others stay."""
        if len(word) < SHORTEST_INVENTED or generator.random() < 0.3:
            return word
        head, tail = (words[int(generator.integers(len(words)))] for _ in range(2))
        kept = int(generator.integers(2, len(head)))
        return head[:kept] + tail[-int(generator.integers(1, len(tail) - 1)) :]


def _segments(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The whole utterance as runs: slot spans by name, everything else under the empty name."""
    starts = [i for i, tag in enumerate(tags) if i == 0 or not tag.startswith("I-")]
    ends = [*starts[1:], len(tags)]
    return [(tags[first].partition("-")[2], first, end) for first, end in zip(starts, ends, strict=True)]


def as_typed(utterance: UtteranceRow, generator: np.random.Generator) -> TaggedText:
    """The utterance as a person types it: apostrophes put back, a mark at the end."""
    text = ""
    spans = []
    for index, word in enumerate(utterance.words):
        clitic = _CLITICS.get(word) if index else None
        piece = clitic or word
        text += "" if clitic or not index else " "
        spans.append((len(text), len(text) + len(piece)))
        text += piece
    text += _ENDINGS[int(generator.integers(len(_ENDINGS)))]
    return TaggedText(text, tuple(spans), utterance.tags)


def as_written(utterance: UtteranceRow) -> TaggedText:
    """The utterance as the data set writes it."""
    return TaggedText(" ".join(utterance.words), tuple(word_spans(utterance.words)), utterance.tags)


@dataclass(frozen=True)
class JointRun(HeadRun):
    """Choices of one run: shares of slot values to exchange or invent, of utterances to write as typed."""

    exchange: float = 0.3
    invented: float = 0.0
    typed: float = 0.3
    slot_weight: float = 1.0
    echo: bool = True


def token_tags(
    encoding_offsets: Sequence[tuple[int, int]], tagged: TaggedText, index: dict[str, int]
) -> list[int]:
    """One tag per token: the word's tag on its first token, I- on its other tokens, O outside of words."""
    owners = word_starts(tagged.spans, encoding_offsets)
    result = []
    for place, owner in enumerate(owners):
        tag = tagged.tags[owner] if owner >= 0 else "O"
        if place and owner == owners[place - 1] and tag.startswith("B-"):
            tag = "I-" + tag[2:] if "I-" + tag[2:] in index else tag
        result.append(index[tag])
    return result


def joint_loss(joint: JointCheckpoint, batch: Batch, run: JointRun) -> Tensor:
    """Smoothed cross-entropies of the intent and of the tags, plus the weighted next-token loss."""
    model, rows, lengths, tags = joint.model, batch["rows"], batch["lengths"], batch["tags"]
    seen = drop_tokens(rows, run.token_dropout, model.config.eos_token_id)
    hidden = model.hidden(seen, lengths)
    intent_logits = model.intent_logits(hidden, seen, lengths)
    inside = tags != IGNORED
    slot_logits = model.slot_head(hidden[inside])
    loss = F.cross_entropy(intent_logits, batch["intents"], label_smoothing=run.label_smoothing)
    loss = loss + run.slot_weight * F.cross_entropy(
        slot_logits, tags[inside], label_smoothing=run.label_smoothing
    )
    if run.language_loss:
        wte = model.transformer.wte.weight
        loss = loss + run.language_loss * next_token_loss(hidden, rows, lengths, wte)
    return loss


def joint_figures(joint: JointCheckpoint, utterances: Sequence[UtteranceRow]) -> dict[str, float]:
    """Intent accuracy and slot span F1 at word level, both 0 to 1."""
    predictions = predict(joint, [utterance.words for utterance in utterances])
    return {
        "intent accuracy": accuracy([p.intent for p in predictions], [u.intent for u in utterances]),
        "slot F1": span_f1([p.tags for p in predictions], [u.tags for u in utterances]),
    }


class JointTraining:
    """A joint model with the utterances that it learns from: batches and loss for `fit`."""

    def __init__(self, joint: JointCheckpoint, utterances: Sequence[UtteranceRow], run: JointRun) -> None:
        self.joint = joint
        self.batches = EpochBatches(self._epoch, -(-len(utterances) // run.batch))
        self._utterances = utterances
        self._run = run
        self._values = SlotValues(utterances)
        self._intents = torch.tensor([joint.intents.index(utterance.intent) for utterance in utterances])

    def loss(self, batch: Batch) -> Tensor:
        """See `joint_loss`."""
        return joint_loss(self.joint, batch, self._run)

    def for_bag(self, rows: Sequence[UtteranceRow]) -> tuple[list[list[int]], Tensor]:
        """Token ids and the intents' targets, for `train.bag_fitting`."""
        joint = self.joint
        texts = [" ".join(row.words) for row in rows]
        found = joint.tokenizer.encode_batch(texts, add_special_tokens=False)
        intents = torch.tensor([joint.intents.index(row.intent) for row in rows])
        ids = [layout(each.ids, joint.model.config.eos_token_id, joint.echo) for each in found]
        return ids, F.one_hot(intents, len(joint.intents)).float()

    def _epoch(self, epoch: int) -> list[Batch]:
        generator = np.random.default_rng((self._run.seed, epoch))
        rows, tag_rows = self._encode(generator)
        return [
            {
                "rows": pad([rows[i] for i in chosen], self.joint.model.config.eos_token_id),
                "lengths": torch.tensor([len(rows[i]) for i in chosen]),
                "tags": pad([tag_rows[i] for i in chosen], IGNORED),
                "intents": self._intents[chosen],
            }
            for chosen in length_buckets([len(row) for row in rows], self._run.batch, generator)
        ]

    def _encode(self, generator: np.random.Generator) -> tuple[list[list[int]], list[list[int]]]:
        """Input rows and tag rows of one epoch; tags are IGNORED where no slot is read."""
        joint, run = self.joint, self._run
        index = {tag: number for number, tag in enumerate(joint.slots)}
        separator = joint.model.config.eos_token_id
        rows, tag_rows = [], []
        for utterance in self._utterances:
            changed = self._values.exchange(utterance, run, generator)
            tagged = as_typed(changed, generator) if generator.random() < run.typed else as_written(changed)
            encoding = joint.tokenizer.encode(tagged.text, add_special_tokens=False)
            rows.append(layout(encoding.ids, separator, joint.echo))
            tags = token_tags(encoding.offsets, tagged, index)
            tag_rows.append([IGNORED] * (len(rows[-1]) - len(tags)) + tags)
        return rows, tag_rows

    @property
    def tokenizer(self) -> Tokenizer:
        return self.joint.tokenizer

    @property
    def module(self) -> JointNlu:
        return self.joint.model

    def figures(self, rows: Sequence[UtteranceRow]) -> dict[str, float]:
        """See `joint_figures`."""
        return joint_figures(self.joint, rows)

    def score(self, figures: Figures) -> float:
        """The sum of both figures."""
        return sum(figures.values())

    def save(self, out: Path) -> None:
        """Write the checkpoint folder."""
        save_checkpoint(
            out,
            self.joint.model,
            self.joint.model.config,
            self.joint.tokenizer,
            architectures=["GPT2ForJointNlu"],
            slot_labels=list(self.joint.slots),
            nlu_echo=self.joint.echo,
        )
