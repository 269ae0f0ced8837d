"""From rows and a start to a training, for each kind of model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from export.verification.narrow import narrow
from train.data import Kind, LabelRow, Problem, Row, TextRow, UtteranceRow
from train.head_parts import BIDIRECTIONAL, is_bidirectional, look_at_neighbours, make_bag
from train.heads import ClassifierTraining, HeadRun, encode
from train.joint_nlu import JointCheckpoint, JointNlu, layout
from train.joint_training import JointRun, JointTraining
from train.lm import LmTraining
from train.options import ECHO, Options
from train.start import Start
from train.training import Training

VALUE = "value"  # the only label of a regression


def make_training(kind: Kind, start: Start, rows: Sequence[Any], options: Options) -> Training:
    """The model of a kind with its start's weights, and the rows that it learns from."""
    if kind is Kind.LM:
        return _lm(start, rows, options)
    return _classifier(start, rows, options) if kind is Kind.CLASSIFIER else _nlu(start, rows, options)


def texts_of(row: Row) -> Iterator[str]:
    """All texts of a row, as the tokenizer learns from them."""
    match row:
        case TextRow():
            yield row.text
        case LabelRow():
            yield row.text
            if row.text_pair is not None:
                yield row.text_pair
        case UtteranceRow():
            yield " ".join(row.words)


def tokens_of(row: LabelRow | UtteranceRow, start: Start, options: Options) -> int:
    """Tokens of the model's input for a row."""
    if isinstance(row, LabelRow):
        return len(encode(start.tokenizer, [row])[0])
    ids = start.tokenizer.encode(" ".join(row.words), add_special_tokens=False).ids
    return len(layout(ids, 0, _echoes(start, options)))


def _lm(start: Start, rows: Sequence[TextRow], options: Options) -> LmTraining:
    model = GPT2LMHeadModel(start.config)
    narrow(model.transformer)
    start.load_into(model, heads=start.kind is Kind.LM)
    return LmTraining(
        model,
        start.tokenizer,
        rows,
        batch=options.batch_size,
        length=min(options.context, start.config.n_positions),
        seed=options.seed,
        packed=options.pack,
    )


def _classifier(start: Start, rows: Sequence[LabelRow], options: Options) -> ClassifierTraining:
    known = start.source.labels if start.kind is Kind.CLASSIFIER and start.source is not None else ()
    labels = (
        [VALUE]
        if options.problem is Problem.REGRESSION
        else _labels({n for r in rows for n in _names(r)}, known)
    )
    _set_labels(start.config, labels)
    start.config.problem_type = options.problem.problem_type
    _set_parts(Kind.CLASSIFIER, start, options, pairs=any(row.text_pair is not None for row in rows))
    model = GPT2ForSequenceClassification(start.config)
    model.ngrams = make_bag(start.config, len(labels))
    narrow(model.transformer)
    # The head is kept where it has the same labels, and begins anew where it has others.
    same = start.source is not None and start.source.labels == tuple(labels)
    start.load_into(model, heads=same and start.kind is Kind.CLASSIFIER)
    return ClassifierTraining(model, start.tokenizer, rows, HeadRun(**_run(options)))


def _nlu(start: Start, rows: Sequence[UtteranceRow], options: Options) -> JointTraining:
    source = start.source
    known = source if source is not None and start.kind is Kind.NLU else None
    intents = _labels({row.intent for row in rows}, known.labels if known else ())
    tags = {tag for row in rows for tag in row.tags} - {"O"}
    slots = ["O", *sorted(tags)]
    if known and {"O", *tags} <= set(known.slot_labels):
        slots = list(known.slot_labels)
    _set_labels(start.config, intents)
    _set_parts(Kind.NLU, start, options)
    model = JointNlu(start.config, len(intents), len(slots))
    if source is None and is_bidirectional(start.config):
        look_at_neighbours(model.transformer)
    narrow(model.transformer)
    same = source is not None and (source.labels, source.slot_labels) == (tuple(intents), tuple(slots))
    start.load_into(model, heads=same and start.kind is Kind.NLU)
    echo = _echoes(start, options)
    joint = JointCheckpoint(model, start.tokenizer, tuple(intents), tuple(slots), echo)
    return JointTraining(joint, rows, JointRun(**_run(options), exchange=0.0, typed=0.0, echo=echo))


def _run(options: Options) -> dict[str, Any]:
    return {
        "epochs": options.epochs,
        "batch": options.batch_size,
        "label_smoothing": options.label_smoothing,
        "token_dropout": options.token_dropout,
        "language_loss": 0.0,
        "seed": options.seed,
    }


def _names(row: LabelRow) -> tuple[str, ...]:
    return row.label if isinstance(row.label, tuple) else (str(row.label),)


def _labels(found: set[str], known: Sequence[str]) -> list[str]:
    """Those of the start in their order, where it knows all that the rows have; else the rows' own."""
    return list(known) if found <= set(known) else sorted(found)


def _set_parts(kind: Kind, start: Start, options: Options, pairs: bool = False) -> None:
    """This project's own keys of config.json. A start of the same kind keeps those that it has."""
    if start.kind is kind:
        return
    if options.attention == BIDIRECTIONAL:
        start.config.attention = BIDIRECTIONAL
    if options.ngram_buckets:
        start.config.ngram_buckets = options.ngram_buckets
        start.config.ngram_orders = list(range(1, options.ngram_order + 1))
        if pairs:
            start.config.ngram_pairs = True


def _echoes(start: Start, options: Options) -> bool:
    """Whether an nlu model reads its text twice."""
    if start.kind is Kind.NLU and start.source is not None:
        return start.source.nlu_echo
    return options.attention == ECHO


def _set_labels(config: GPT2Config, labels: Sequence[str]) -> None:
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
