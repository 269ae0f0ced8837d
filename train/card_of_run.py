"""The card of a model that `lmaas train` made, written from what happened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from train.cards import Card, DataSource, Figure
from train.data import Kind, Problem
from train.estimate import in_words
from train.head_parts import is_bidirectional, reads_pairs
from train.options import Options, flag

if TYPE_CHECKING:
    from transformers import GPT2Config

    from train.job import Outcome

PIPELINES = {
    Kind.LM: "text-generation",
    Kind.CLASSIFIER: "text-classification",
    Kind.NLU: "token-classification",
}
SHARES = ("accuracy", "F1", "intent accuracy", "slot F1")  # figures from 0 to 1


def write_card(folder: Path, kind: Kind, options: Options, command: str, outcome: Outcome) -> None:
    """Write README.md into a checkpoint folder that has metrics.jsonl and curves.png."""
    start = outcome.start
    card = Card(
        name=options.out.name,
        pipeline_tag=PIPELINES[kind],
        licence="other",
        summary=_summary(kind, options, outcome),
        shape=_shape(start.config),
        data=_data(options, outcome),
        recipe=_recipe(options, outcome),
        command=command,
        figures=_figures(options, outcome),
        sections={"Curves": "![Losses and held-out figures](curves.png)\n\nAll values are in metrics.jsonl."},
        limits=("It knows what its training data shows, and nothing was measured on other data.",),
        tags=("gpt2", "lmaas", *(("from-scratch",) if start.source is None else ())),
        language=None,
    )
    card.write(folder)


def _shape(config: GPT2Config) -> str:
    parts = [f"{config.n_layer} layers, {config.n_embd} wide, context {config.n_positions}"]
    parts.append(f"{config.vocab_size:,} tokens")
    if is_bidirectional(config):
        parts.append("attention to both sides of a token")
    if getattr(config, "ngram_buckets", None):
        longest = max(config.ngram_orders)
        marked = ", new words of a second text marked," if reads_pairs(config) else ""
        parts.append(
            f"a bag of n-grams of up to {longest} tokens{marked} in {config.ngram_buckets:,} buckets"
        )
    return f"GPT-2 with {', '.join(parts)}."


def _summary(kind: Kind, options: Options, outcome: Outcome) -> str:
    if kind is Kind.LM:
        return "A language model, trained with `lmaas train lm`."
    labels = list(outcome.start.config.id2label.values())
    shown = ", ".join(f"`{label}`" for label in labels[:12]) + (", ..." if len(labels) > 12 else "")
    if kind is Kind.NLU:
        return f"Finds the intent of an utterance and its slots. {len(labels)} intents: {shown}."
    if options.problem is Problem.REGRESSION:
        return "Gives a text a value."
    rule = "one class" if options.problem is Problem.SINGLE else "any number of classes"
    return f"Gives a text {rule} of {len(labels)}: {shown}."


def _data(options: Options, outcome: Outcome) -> list[DataSource]:
    data = outcome.data
    held_out = "a share of the first file" if options.held_out_share is not None else options.held_out
    parts = [
        (options.train.name, f"training, {len(data.train):,} rows"),
        (Path(held_out).name, f"choosing the weights, {len(data.held_out):,} rows"),
    ]
    if options.test is not None:
        parts.append((options.test.name, f"the figures, {len(data.test):,} rows"))
    return [DataSource(name, "the user", "not stated", use) for name, use in parts]


def _recipe(options: Options, outcome: Outcome) -> str:
    schedule = outcome.estimate
    steps = "; ".join(str(report) for report in outcome.data.reports) or "none"
    chosen = ", ".join(
        f"{flag(name)} {getattr(getattr(options, name), 'value', getattr(options, name))}"
        for name in ("batch_size", "epochs", "warm_up", "weight_decay", "seed", "precision")
    )
    return (
        f"From {outcome.start.origin}: up to {schedule.steps:,} steps in {in_words(outcome.seconds)} on"
        f" {schedule.device}, with Muon for the matrices and AdamW for the rest ({chosen}). The weights that"
        f" are best on the held-out rows are kept. Preprocessing: {steps}."
    )


def _figures(options: Options, outcome: Outcome) -> list[Figure]:
    rows = [("held-out", outcome.held_out, len(outcome.data.held_out), "; chose the weights")]
    if outcome.test is not None:
        rows.append(("test", outcome.test, len(outcome.data.test), ""))
    return [
        Figure(
            f"{name}, {part}", f"{value:.1%}" if name in SHARES else f"{value:.4g}", f"{count:,} rows{note}"
        )
        for part, figures, count, note in rows
        for name, value in figures.items()
    ]
