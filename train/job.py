"""One training from its options to a checkpoint folder with a card: what `lmaas train` runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from train.bag_fitting import fit_bag, weigh_bag
from train.card_of_run import write_card
from train.curves import draw_curves
from train.data import DataError, Kind, Preprocessing, Row, check_rows, preprocess, read_rows, split_rows
from train.data.preprocessing import Report, shared_texts
from train.estimate import Estimate, estimate
from train.joint_training import JointTraining
from train.kinds import make_training, texts_of, tokens_of
from train.optimization import Schedule
from train.options import Options
from train.run_files import write_atomically
from train.start import Start, load_weights, open_start
from train.trainer import METRICS, Figures, Loop
from train.training import Training, train_on
from train.transitions import fit_transitions

Show = Callable[[str], None]
OPTIONS = "options.json"
CURVES = "curves.png"


class RunError(ValueError):
    """The run cannot be started, or not be continued."""


@dataclass(frozen=True)
class Data:
    """The rows of a run, and what preprocessing did to those that it learns from."""

    train: list[Any]
    held_out: list[Any]
    test: list[Any]
    reports: list[Report]


@dataclass(frozen=True)
class Outcome:
    """A finished run. Figures are of the saved checkpoint, read back."""

    held_out: Figures
    test: Figures | None
    estimate: Estimate
    seconds: float
    data: Data
    start: Start


class Change:
    """What else is done to a run before its first step; this one does nothing."""

    def fixed(self) -> dict[str, str]:
        """What must not change when a run continues, by the options' names."""
        return {}

    def accept(self, data: Data) -> None:
        """Look at the rows before anything is made of them. Raises RunError."""

    def start(self, start: Start, data: Data) -> Start:
        """Another architecture, or other weights. Raises ValueError."""
        return start

    def training(self, training: Training, data: Data) -> Training:
        """Another loss, or a changed model. Raises RunError."""
        return training

    def loop(self, loop: Loop) -> Loop:
        """Other ways to say how far it is."""
        return loop


def run(kind: Kind, options: Options, show: Show, command: str, change: Change | None = None) -> Outcome:
    """Train and write `options.out`; `show` gets a line for everything that a user may want to know.

    All rows are checked before the first step. Raises DataError, RunError, ExportError (of --from) and
    ValueError (of an option).
    """
    change = change or Change()
    options.check(kind)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: cuda: torch finds no GPU here; auto takes one if there is one")
    fixed = options.fixed() | change.fixed()
    check_folders(options, fixed)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    data = read_data(kind, options, show)
    change.accept(data)
    torch.manual_seed(options.seed)
    start = open_start(kind, options, (text for row in data.train for text in texts_of(row)))
    data = within_context(data, kind, start, options, show)
    start = change.start(start, data)
    training = made = make_training(kind, start, data.train, options)
    if (fitted := fit_bag(training, data.train, data.held_out)) is not None:
        show(fitted)
    training = change.training(training, data)
    loop = change.loop(loop_of(options, start, len(training.batches)))
    show(describe(training, start))
    expected = estimate(training, loop, len(data.held_out))
    show(str(expected))
    begin_run(options, fixed)
    train_on(training, data.held_out, loop)
    if (weighed := weigh_bag(training, data.held_out)) is not None:
        show(weighed)
    if isinstance(made, JointTraining) and options.slot_transitions:
        show(fit_transitions(made.joint, data.train, data.held_out))
    return finish(kind, options, show, command, training, expected, data, start)


def check_folders(options: Options, fixed: Mapping[str, str]) -> None:
    """Refuse to write over what is there, and to continue a run with other options or data."""
    folder, written = options.run_folder, options.run_folder / OPTIONS
    if not options.overwrite:
        if options.out.exists() and any(options.out.iterdir()):
            raise RunError(f"{options.out} exists: choose another --out, or replace it with --overwrite")
        if folder.exists() and not options.resume:
            raise RunError(
                f"{folder} holds a run: continue it with --resume, or start again with --overwrite"
            )
    if options.resume:
        if not written.exists():
            raise RunError(f"{folder} holds no run to continue")
        before = json.loads(written.read_text("utf-8"))
        for name, value in fixed.items():
            if name not in before:
                raise RunError(
                    f"--resume: {folder} is of an earlier version, which had no {name}: continue it with"
                    " that version, or start again with --overwrite"
                )
            if before[name] != value:
                raise RunError(f"--resume: {name} was {before[name]}, and is {value} now")


def begin_run(options: Options, fixed: Mapping[str, str]) -> None:
    """Make the folder of a new run, in place of an old one; a run that continues keeps its own."""
    folder = options.run_folder
    if options.overwrite and not options.resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / OPTIONS, json.dumps(fixed, indent=2) + "\n")


def read_data(kind: Kind, options: Options, show: Show) -> Data:
    """Read, check and preprocess all rows. Raises DataError, and ValueError for a bad --held-out."""
    read: dict[Path, list[Any]] = {}
    share = options.held_out_share
    others = [Path(options.held_out)] if share is None else []
    others += [options.test] if options.test is not None else []
    for path in (options.train, *others):
        read[path] = read_rows(path, kind, problem=options.problem)
    check_rows((options.train, read[options.train]), {path: read[path] for path in others})
    train: list[Any] = read[options.train]
    held_out = train
    if share is None:
        held_out = read[Path(options.held_out)]
    else:
        train, held_out = split(options.train, train, share, options.seed)
    test = [] if options.test is None else read[options.test]
    cleaning = Preprocessing(
        options.normalize, options.deduplicate, options.min_characters, options.max_characters
    )
    train, reports = preprocess(train, cleaning)
    if not train:
        raise DataError(options.train, None, None, "preprocessing leaves no rows: see the length options")
    # Rows that are measured are normalized too, and none is dropped.
    alike = replace(cleaning, deduplicate=False, min_characters=1, max_characters=None)
    held_out, test = (preprocess(rows, alike)[0] for rows in (held_out, test))
    show(f"rows: {len(train):,} to train on, {len(held_out):,} held out, {len(test):,} to test")
    for report in reports:
        show(f"  {report}")
    for name, rows in (("held-out", held_out), ("test", test)):
        if shared := shared_texts(train, rows):
            show(f"  {shared:,} of {len(rows):,} {name} rows have a text that is trained on: figures flatter")
    return Data(train, held_out, test, reports)


def split(path: Path, rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """See `split_rows`; too few rows are a DataError."""
    try:
        return split_rows(rows, share, seed)
    except ValueError as error:
        raise DataError(path, None, None, f"{error}: name a file with --held-out") from None


def within_context(data: Data, kind: Kind, start: Start, options: Options, show: Show) -> Data:
    """Drop rows that have more tokens than the context, and say how many. Documents of an lm are cut."""
    if kind is Kind.LM:
        return data
    most = start.config.n_positions
    parts = []
    for name, rows in (("training", data.train), ("held-out", data.held_out), ("test", data.test)):
        fitting = [row for row in rows if tokens_of(row, start, options) <= most]
        if len(fitting) < len(rows):
            show(f"  {len(rows) - len(fitting):,} {name} rows have more than {most} tokens: left out")
        parts.append(fitting)
    if not parts[0] or not parts[1]:
        raise DataError(options.train, None, None, f"all rows have more than {most} tokens")
    return replace(data, train=parts[0], held_out=parts[1], test=parts[2])


def loop_of(options: Options, start: Start, batches: int) -> Loop:
    """The loop of the options over `batches` batches an epoch."""
    epoch = -(-batches // options.gradient_accumulation)
    steps = options.epochs * epoch
    rate = options.learning_rate or (1e-3 if start.source is None else 2e-4)
    schedule = Schedule(
        steps,
        warmup=min(steps, round(steps * options.warm_up)),
        matrix_rate=2 * rate,
        other_rate=rate,
        weight_decay=options.weight_decay,
    )
    return Loop(
        options.run_folder,
        schedule,
        options.evaluate_every or epoch,
        save_every=options.save_every,
        log_every=max(1, min(100, steps // 20)),
        accumulation=options.gradient_accumulation,
        patience=options.early_stopping,
        precision=options.precision,
        seed=options.seed,
        progress=True,
        device=options.device,
    )


def describe(training: Training, start: Start) -> str:
    """The size of the model, and what it begins with."""
    config = start.config
    count = sum(parameter.numel() for parameter in training.module.parameters())
    shape = f"{config.n_layer} layers, {config.n_embd} wide, {config.vocab_size:,} tokens"
    return f"model: {count / 1e6:.2f} M parameters, {shape}, from {start.origin}"


def finish(
    kind: Kind,
    options: Options,
    show: Show,
    command: str,
    training: Training,
    expected: Estimate,
    data: Data,
    start: Start,
) -> Outcome:
    """Write the checkpoint, measure it as it was saved, draw the curves and write the card."""
    partial = options.run_folder / "result"
    shutil.rmtree(partial, ignore_errors=True)
    training.save(partial)
    load_weights(partial, training.module)
    held_out = training.figures(data.held_out)
    test = training.figures(data.test) if data.test else None
    metrics = options.run_folder / METRICS
    draw_curves(metrics, options.run_folder / CURVES)
    for name in (METRICS, CURVES):
        shutil.copyfile(options.run_folder / name, partial / name)
    seconds = json.loads(metrics.read_text("utf-8").splitlines()[-1])["seconds"]
    outcome = Outcome(held_out, test, expected, seconds, data, start)
    write_card(partial, kind, options, command, outcome)
    shutil.rmtree(options.out, ignore_errors=True)
    partial.rename(options.out)
    for save in options.run_folder.glob("checkpoint-*"):
        shutil.rmtree(save)
    for name, figures in (("held-out", held_out), ("test", test)):
        if figures is not None:
            show(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    show(f"{options.out}: `lmaas models push NAME {options.out} --deploy` serves it")
    return outcome
