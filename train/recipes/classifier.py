"""Shared by the recipes of mini-sentiment and mini-nli: a plan, its training and its evaluation."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from train.bag_fitting import TOLERANCE, fit_bag, weigh_bag
from train.data import LabelRow
from train.head_parts import BIDIRECTIONAL, make_bag
from train.heads import Augment, ClassifierTraining, HeadRun, classifier_accuracy, start_from_body
from train.language_model import make_config
from train.pair_training import Matching, PairTraining
from train.recipes.command import working_folder
from train.start import load_weights
from train.tokenizer import END_OF_TEXT_ID, PADDING, train_tokenizer
from train.training import train_on

log = logging.getLogger(__name__)

_NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}


@dataclass(frozen=True)
class Plan:
    """One classifier: its data, its shape and its training run."""

    name: str
    labels: tuple[str, ...]
    read: Callable[[Path, str], list[LabelRow]]
    held_out: str
    augment: Augment
    template: Callable[[Tokenizer], None]
    # Number of runs from the same initial weights; their results are averaged.
    runs: tuple[HeadRun, ...]
    vocabulary: int = 4096
    layers: int = 2
    width: int = 256
    dropout: float = 0.1
    # Attention to both sides of a token.
    bidirectional: bool = False
    # Start from the first layers of the sibling folder mini-lm, or from random weights.
    from_body: bool = True
    # Of a bag of n-grams beside the body, fitted first; 0: none.
    ngram_buckets: int = 0
    # Lengths of its n-grams, in tokens.
    ngram_orders: tuple[int, ...] = (1, 2)
    # Of its fit, see train/bag_fitting.py.
    ngram_tolerance: float = TOLERANCE
    # For pairs: also learn which tokens of the second text are in the first.
    matching: Matching | None = None

    @property
    def shape(self) -> str:
        """The architecture in words, for the card."""
        sides = ", attention to both sides of a token" if self.bidirectional else ""
        bag = f"a bag of n-grams in {self.ngram_buckets:,} buckets, " if self.ngram_buckets else ""
        return (
            f"GPT2ForSequenceClassification: {self.layers} layers, {self.width} wide, {self.width // 64} "
            f"heads{sides}, context 512, {bag}own lower-casing byte-level BPE of {self.vocabulary} tokens. "
            "`tokenizer.json` adds `<|endoftext|>` by itself; the label is read at the last token."
        )

    @property
    def recipe(self) -> str:
        """The run in words, for the card."""
        start = "From the first layers of mini-lm" if self.from_body else "From random weights"
        run = self.runs[0]
        epochs = " and ".join(str(each.epochs) for each in self.runs)
        mean = "; the weights of the runs are averaged" if len(self.runs) > 1 else ""
        bag = (
            f" First a logistic regression on n-grams of {_NUMBERS[self.ngram_orders[0]]} to "
            f"{_NUMBERS[self.ngram_orders[-1]]} tokens is fitted. The answer is a weighted sum of its "
            "logits and the transformer's, with the weights of the least held-out loss."
            if self.ngram_buckets
            else ""
        )
        smoothing = f"label smoothing {run.label_smoothing}, " if run.label_smoothing else ""
        return (
            f"{start}: {epochs} epochs in batches of {run.batch}{mean}. Muon for the matrices and AdamW for "
            f"the rest, {smoothing}dropout {self.dropout}, "
            f"{run.token_dropout:.0%} of the tokens blanked, weight decay {run.weight_decay}.{bag}"
        )


def make_tokenizer(plan: Plan, examples: Sequence[LabelRow]) -> Tokenizer:
    """A lower-casing BPE of the plan's text; each text is read as if it started with a space."""
    texts = sorted({text for e in examples for text in (e.text, e.text_pair) if text})
    tokenizer = train_tokenizer(texts, plan.vocabulary, lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    plan.template(tokenizer)
    return tokenizer


def make_model(plan: Plan, tokenizer: Tokenizer, body: Path) -> GPT2ForSequenceClassification:
    """The untrained classifier; with `from_body` it starts from the embeddings and blocks at `body`."""
    torch.manual_seed(plan.runs[0].seed)
    config = make_config(tokenizer.get_vocab_size(), plan.layers, plan.width, END_OF_TEXT_ID)
    config.num_labels = len(plan.labels)
    config.id2label = dict(enumerate(plan.labels))
    config.label2id = {label: index for index, label in enumerate(plan.labels)}
    # transformers reads the label at the last token that is not padding, so padding needs its own token.
    config.pad_token_id = tokenizer.token_to_id(PADDING)
    config.resid_pdrop = config.embd_pdrop = plan.dropout
    if plan.bidirectional:
        config.attention = BIDIRECTIONAL
    if plan.ngram_buckets:
        config.ngram_buckets, config.ngram_orders = plan.ngram_buckets, list(plan.ngram_orders)
        config.ngram_pairs = plan.matching is not None
    model = GPT2ForSequenceClassification(config)
    model.ngrams = make_bag(config, len(plan.labels))
    if plan.from_body:
        source = GPT2LMHeadModel.from_pretrained(body, dtype=torch.float32)
        start_from_body(model, tokenizer, source, Tokenizer.from_file(str(body / "tokenizer.json")))
    return model


def train_plan(plan: Plan, data: Path, out: Path) -> None:
    """Do the runs of the plan, each up to its best held-out epoch, and save the mean of their weights."""
    examples = plan.read(data, "train")
    tokenizer = make_tokenizer(plan, examples)
    held_out = plan.read(data, plan.held_out)
    states = []
    for number, run in enumerate(plan.runs, 1):
        model = make_model(plan, tokenizer, out.parent / "mini-lm")
        # A recipe that was interrupted continues from here.
        loop = run.loop(working_folder(out) / f"run{number}", len(examples))
        training = ClassifierTraining(model, tokenizer, examples, run, plan.augment)
        if plan.matching is not None:
            training = PairTraining(model, tokenizer, examples, run, plan.augment, plan.matching)
        fitted = fit_bag(training, examples, held_out, plan.ngram_tolerance)
        if fitted is not None:
            log.info("%s", fitted)
        best = train_on(training, held_out, loop)
        log.info("%s, %d epochs: %s %s", plan.name, run.epochs, plan.held_out, best)
        states.append(model.state_dict())
    model.load_state_dict(mean_state(states))
    if (weighed := weigh_bag(training, held_out)) is not None:
        log.info("%s", weighed)
    training.save(out)


def mean_state(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The average of models that share their initial weights (Wortsman et al., Model soups, 2022)."""
    return {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}


@dataclass(frozen=True)
class LoadedClassifier:
    """A checkpoint folder as the server reads it: fp16 tensors, run in fp32."""

    model: GPT2ForSequenceClassification
    tokenizer: Tokenizer

    def accuracy(self, examples: Sequence[LabelRow], change: Callable[[str], str] | None = None) -> float:
        """Share of correct answers, 0 to 1; `change` rewrites every text first."""
        if change is not None:
            examples = [
                replace(e, text=change(e.text), text_pair=change(e.text_pair) if e.text_pair else None)
                for e in examples
            ]
        return classifier_accuracy(self.model, self.tokenizer, examples)


def load_classifier(folder: Path) -> LoadedClassifier:
    """Read a GPT2ForSequenceClassification checkpoint, with this project's own parts."""
    config = GPT2Config.from_pretrained(folder)
    model = GPT2ForSequenceClassification(config)
    model.ngrams = make_bag(config, config.num_labels)
    load_weights(folder, model)
    return LoadedClassifier(model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json")))
