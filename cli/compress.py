"""`lmaas prune` and `lmaas distil`: a smaller model from a trained one, measured before and after."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.command import fail
from cli.train import command_line, one_line_errors, option_parameters, show
from train.data import Kind, Problem
from train.options import LINEAR, Options, make_options

if TYPE_CHECKING:
    from export.checkpoint.config import ModelConfig
    from train.job import Change

# Of the options of `lmaas train`, those of a run that begins with a trained model.
RUN_OPTIONS = (
    *("out", "held_out", "test", "normalize", "deduplicate", "context", "pack", "dropout"),
    *("batch_size", "epochs", "learning_rate", "warm_up", "weight_decay", "label_smoothing"),
    *("token_dropout", "gradient_accumulation", "early_stopping", "evaluate_every", "save_every"),
    *("seed", "precision", "device", "threads", "url", "resume", "overwrite"),
)
Data = Annotated[
    Path,
    typer.Option(help="Rows to learn from, of the checkpoint's kind: .jsonl, .csv, .tsv, or .txt for lm."),
]


def _with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with RUN_OPTIONS as parameters beside its own."""

    @wraps(command)
    def with_options(**given: Any) -> None:
        command(**given)

    own = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for each in inspect.signature(command, eval_str=True).parameters.values()
        if each.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    parameters = [*own, *option_parameters(RUN_OPTIONS)]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


@_with_run_options
def prune(
    checkpoint: Annotated[
        str, typer.Argument(help="A checkpoint's folder, or NAME or NAME/VERSION of a stored model.")
    ],
    data: Data,
    heads: Annotated[float, typer.Option(help="The share of all attention heads that goes.")] = 0.0,
    neurons: Annotated[float, typer.Option(help="The share of all MLP neurons that goes.")] = 0.0,
    criterion: Annotated[
        str, typer.Option(help="taylor: activation times gradient of the loss; activation: its size alone.")
    ] = "taylor",
    ranking: Annotated[
        str, typer.Option(help="global: over all layers; layer: each layer loses the same share.")
    ] = "global",
    neuron_step: Annotated[int, typer.Option(help="Neurons go in groups of this number.", min=1)] = 16,
    rows: Annotated[int, typer.Option(help="Rows on which importance is measured.", min=1)] = 512,
    **given: Any,
) -> None:
    """Remove the attention heads and MLP neurons that matter least, train on for an epoch, and measure.

    The checkpoint is really smaller, and `lmaas export` and the engine take it as any other.
    """
    with one_line_errors(given["out"]), _opened([checkpoint], given["url"]) as folders:
        from train.compression import Pruning
        from train.pruning import Criterion, Ranking, Shares

        config = _config(folders[checkpoint])
        shares = Shares(heads, neurons, Ranking(ranking), neuron_step)
        if not heads and not neurons:
            fail("prune: --heads and --neurons are both 0: there is nothing to do")
        given["epochs"] = given["epochs"] or 1
        options = _options(config, given, train=data, start=checkpoint)
        pruning = Pruning(shares, Criterion(criterion), rows)
        _run(config.head.kind, options, pruning, [("before", folders[checkpoint])])


@_with_run_options
def distil(
    teachers: Annotated[
        list[str],
        typer.Argument(
            help="Folders of checkpoints, or stored models (NAME or NAME/VERSION). Several are an ensemble."
            " `linear`: TF-IDF and logistic regression."
        ),
    ],
    data: Data,
    layers: Annotated[
        int | None, typer.Option(help="Layers of the student, from the first teacher. Default: half.", min=1)
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Width of the student, below the teacher's.", min=1)
    ] = None,
    neurons: Annotated[
        int | None,
        typer.Option(
            help="MLP neurons in a layer of a narrower student. Default: 4 times --width, or the teacher's.",
            min=1,
        ),
    ] = None,
    ngram_buckets: Annotated[
        int | None,
        typer.Option(help="Buckets of the student's bag of n-grams, a divisor of the teacher's.", min=1),
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="Begin with this checkpoint, and not with the teacher's layers.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="At which probabilities are compared.")] = 2.0,
    alpha: Annotated[float, typer.Option(help="Weight of the labels.")] = 2.0,
    beta: Annotated[float, typer.Option(help="Weight of the teachers' probabilities.")] = 5.0,
    gamma: Annotated[
        float, typer.Option(help="Weight of the hidden states; none where widths differ.")
    ] = 1.0,
    **given: Any,
) -> None:
    """Train a smaller model on the answers of larger ones, beside the labels, and measure both."""
    names = [name for name in teachers if name != LINEAR]
    begin = student or next(iter(names), None)
    if begin is None:
        fail(f"distil: a student cannot begin with the teacher {LINEAR}: name a checkpoint with --student")
    with one_line_errors(given["out"]), _opened([*names, begin], given["url"]) as folders:
        from train.compression import Distilling
        from train.distillation import Weights

        config = _config(folders[begin])
        if layers is None and student is None:
            layers = max(1, config.num_layers // 2)
        options = _options(config, given, train=data, start=begin)
        weights = Weights(temperature, alpha, beta, gamma)
        sizes = (layers, width, neurons, ngram_buckets)
        change = Distilling(config.head.kind, options, teachers, weights, *sizes)
        before = [(_title(name), folders[name]) for name in names]
        _run(config.head.kind, options, change, before or [("student before", folders[begin])])


@contextmanager
def _opened(names: Sequence[str], url: str) -> Iterator[dict[str, Path]]:
    """The checkpoints' folders by their names; that of a stored model is there while the block lasts."""
    from train.start import open_folder

    with ExitStack() as stack:
        yield {name: stack.enter_context(open_folder(name, url))[0] for name in dict.fromkeys(names)}


def _title(name: str) -> str:
    return Path(name).name if Path(name).exists() else name


def _config(folder: Path) -> ModelConfig:
    from export.checkpoint.config import Head, read_config

    config = read_config(folder)
    if config.head is Head.TOKEN:
        fail(f"{folder}: a model of slots alone is not trained here; one of intents and slots is")
    return config


def _options(config: ModelConfig, given: dict[str, Any], **more: Any) -> Options:
    """The options of the run, with the defaults of the checkpoint's kind."""
    kind = config.head.kind
    chosen = {name: value for name, value in given.items() if value is not None}
    options = make_options(kind, **chosen, **more)
    if kind is not Kind.CLASSIFIER:
        return options
    return replace(options, problem=next(p for p in Problem if p.problem_type == config.problem_type))


def _run(kind: Kind, options: Options, change: Change, before: Sequence[tuple[str, Path]]) -> None:
    from train.compression_report import report
    from train.job import run

    outcome = run(kind, options, show, command_line(), change)
    rows = outcome.data.test or outcome.data.held_out
    show("measuring before and after ...")
    print(report([*before, (options.out.name, options.out)], rows, options), end="")
