"""The options of `lmaas train`: one table, which makes the commands, their help and docs/training.md."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from client.http import DEFAULT_URL
from train.data import Kind, Problem
from train.data.preprocessing import Normalization

LINEAR = "linear"  # a teacher: TF-IDF and logistic regression, fitted on the rows
ECHO = "echo"  # of an nlu model's input: the text twice
HEAD_WIDTH = 64  # of an attention head of a new model
HEADS = (Kind.CLASSIFIER, Kind.NLU)
ALL = tuple(Kind)


@dataclass(frozen=True)
class About:
    """What an option does, for which kinds of model, and the default that a kind has of its own."""

    what: str
    kinds: tuple[Kind, ...] = ALL
    defaults: tuple[tuple[Kind, Any], ...] = ()
    low: float | None = None
    high: float | None = None
    # Another value continues the same run: it says where or how fast it runs, not what it computes.
    free: bool = False


Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Attention = Literal["causal", "echo", "bidirectional"]


@dataclass(frozen=True)
class Options:
    """What a training is asked for, by the names of the command line's options."""

    train: Annotated[Path, About("Rows to learn from: .jsonl, .csv, .tsv, and .txt for lm.")]
    out: Annotated[Path, About("The checkpoint folder to write; OUT-training beside it holds the run.")]
    held_out: Annotated[str, About("Rows that choose the best weights: a file, or a share of --train.")] = (
        "0.1"
    )
    test: Annotated[Path | None, About("Rows that are measured once, at the end, for the card.")] = None
    start: Annotated[
        str | None,
        About(
            "Begin with these weights: a checkpoint's folder or archive, NAME or NAME/VERSION of a stored"
            " model (of the appliance at --url, or else in LMAAS_HOME), or a name on the Hugging Face hub."
            " Without it: from random weights, with a tokenizer made of --train."
        ),
    ] = None
    problem: Annotated[
        Problem, About("One class a row, any number of classes, or a value.", (Kind.CLASSIFIER,))
    ] = Problem.SINGLE
    # Preprocessing
    normalize: Annotated[Normalization, About("Unicode normalization of all texts.")] = "nfc"
    deduplicate: Annotated[bool, About("Drop training rows that are there twice.")] = True
    min_characters: Annotated[int, About("Drop training rows with shorter texts.", low=1)] = 1
    max_characters: Annotated[int | None, About("Drop training rows with longer texts.", low=1)] = None
    pack: Annotated[
        bool, About("Fill rows with several documents; without it each begins a row.", (Kind.LM,))
    ] = True
    # The model, where it starts from random weights
    vocabulary: Annotated[
        int, About("Tokens of the new tokenizer.", defaults=((Kind.LM, 8192),), low=257, high=200_000)
    ] = 4096
    layers: Annotated[int, About("Layers of the new model.", defaults=((Kind.LM, 4),), low=1, high=96)] = 2
    width: Annotated[int, About("Width of the new model, a multiple of 64.", low=64, high=8192)] = 256
    context: Annotated[
        int, About("Tokens of the new model's context; of a row for lm.", low=8, high=8192)
    ] = 512
    dropout: Annotated[float, About("Share of activations that training blanks.", low=0, high=0.9)] = 0.1
    attention: Annotated[
        Attention,
        About(
            "What a token reads: the tokens before it (causal), those on both sides (bidirectional), or, for"
            " nlu, the tokens before it in a second copy of the text (echo).",
            HEADS,
            defaults=((Kind.NLU, "bidirectional"),),
        ),
    ] = "causal"
    ngram_buckets: Annotated[
        int,
        About(
            "Size of a bag of hashed n-grams beside the transformer: logistic regression, which is fitted"
            " first, also on characters where held-out rows find that better. They choose how much it says in"
            " a classifier's answer too; of intents it is half. 0: none.",
            HEADS,
            defaults=((Kind.CLASSIFIER, 65536),),
            low=0,
            high=1 << 22,
        ),
    ] = 0
    ngram_order: Annotated[int, About("Tokens of the longest n-gram in the bag.", HEADS, low=1, high=5)] = 2
    slot_transitions: Annotated[
        bool,
        About(
            "After the training, score each slot tag also by the one before it, as often as rows have them"
            " together. Held-out rows choose how much that counts.",
            (Kind.NLU,),
        ),
    ] = True
    # The run
    batch_size: Annotated[int, About("Rows in a batch.", defaults=((Kind.LM, 8),), low=1)] = 32
    epochs: Annotated[int, About("Times that all rows are seen.", defaults=((Kind.LM, 1),), low=1)] = 5
    learning_rate: Annotated[
        float | None,
        About(
            "Peak rate of AdamW; Muon, for the matrices of the blocks, has twice that. Default: 0.001 from"
            " random weights, 0.0002 with --from.",
            low=1e-9,
            high=1.0,
        ),
    ] = None
    warm_up: Annotated[float, About("Share of the steps in which the rate rises.", low=0, high=1)] = 0.1
    weight_decay: Annotated[float, About("Decoupled weight decay.", low=0, high=10)] = 0.1
    label_smoothing: Annotated[
        float, About("Share of a target that goes to all labels.", HEADS, low=0, high=0.9)
    ] = 0.0
    token_dropout: Annotated[
        float, About("Share of tokens that training blanks.", HEADS, low=0, high=0.9)
    ] = 0.0
    gradient_accumulation: Annotated[int, About("Batches in one step.", low=1)] = 1
    early_stopping: Annotated[
        int, About("End after this many evaluations without a better one; 0: never.", low=0)
    ] = 0
    evaluate_every: Annotated[int | None, About("Steps between evaluations. Default: an epoch.", low=1)] = (
        None
    )
    save_every: Annotated[
        int | None,
        About("Steps between saves: what a kill can lose. Default: an evaluation.", low=1, free=True),
    ] = None
    seed: Annotated[int, About("The same seed gives the same run.", low=0, high=2**32 - 1)] = 20
    # The machine
    precision: Annotated[
        Precision, About("auto: bf16 where the device computes in it. fp16 needs a GPU.")
    ] = "auto"
    device: Annotated[Device, About("auto: a GPU if there is one.")] = "auto"
    threads: Annotated[int | None, About("Threads of a CPU. Default: its cores.", low=1, free=True)] = None
    url: Annotated[str, About("Where an appliance answers (LMAAS_URL), for stored models.", free=True)] = (
        DEFAULT_URL
    )
    resume: Annotated[bool, About("Continue the run in OUT-training after its last save.", free=True)] = False
    overwrite: Annotated[bool, About("Replace OUT, and the run in OUT-training.", free=True)] = False

    @property
    def run_folder(self) -> Path:
        """Where the run keeps its saves, metrics and curves."""
        return self.out.with_name(f"{self.out.name}-training")

    @property
    def held_out_share(self) -> float | None:
        """The share of --train that is held out; None where --held-out is a file. Raises ValueError."""
        try:
            share = float(self.held_out)
        except ValueError:
            return None
        if not 0 < share < 1:
            raise ValueError(f"--held-out: {self.held_out}: a share is between 0 and 1, as in 0.1")
        return share

    def check(self, kind: Kind) -> None:
        """Raise ValueError for values that do not go together. No file is looked at."""
        if self.start is None and self.width % HEAD_WIDTH:
            raise ValueError(
                f"--width: {self.width}: a multiple of {HEAD_WIDTH} is needed, which is the width of a head"
            )
        if self.attention == ECHO and kind is not Kind.NLU:
            raise ValueError(
                f"--attention: {ECHO}: only nlu reads a text twice: causal or bidirectional is needed"
            )
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise ValueError(
                f"--max-characters: {self.max_characters}: at least {self.min_characters} is needed, which"
                " is --min-characters"
            )
        _ = self.held_out_share

    def fixed(self) -> dict[str, str]:
        """What must not change when a run continues; data files by their SHA-256. Raises OSError."""
        found: dict[str, str] = {}
        for name, about in described().items():
            value = asdict(self)[name]
            if about.free or name == "out":
                continue
            if isinstance(value, Path) or (name == "held_out" and self.held_out_share is None):
                value = hashlib.sha256(Path(value).read_bytes()).hexdigest()
            found[flag(name)] = str(getattr(value, "value", value))
        return found


@cache
def described() -> Mapping[str, About]:
    """What each field of Options is about, in their order."""
    hints = get_type_hints(Options, include_extras=True)
    return {field.name: get_args(hints[field.name])[1] for field in fields(Options)}


def make_options(kind: Kind, **given: Any) -> Options:
    """Options with the defaults of a kind where it has some of its own."""
    own = {name: dict(about.defaults).get(kind) for name, about in described().items()}
    return Options(**{name: value for name, value in own.items() if value is not None} | given)


def flag(name: str) -> str:
    """The option of a field: batch_size is --batch-size, start is --from."""
    return "--from" if name == "start" else f"--{name.replace('_', '-')}"


def flags(name: str) -> tuple[str, ...]:
    """The option of a field; for one that is on by default also the option that switches it off."""
    off = {
        "deduplicate": "--keep-duplicates",
        "pack": "--no-pack",
        "slot_transitions": "--no-slot-transitions",
    }
    return (flag(name), off[name]) if name in off else (flag(name),)


def options_markdown() -> str:
    """The table of all options, for docs/training.md."""
    rows = []
    defaults = {field.name: field.default for field in fields(Options)}
    for name, about in described().items():
        default = defaults[name]
        if default is MISSING:
            shown = "required"
        elif default is None or isinstance(default, bool):
            shown = ""
        else:
            shown = f"`{getattr(default, 'value', default)}`"
            shown += "".join(f", `{own}` for {kind.value}" for kind, own in about.defaults)
        kinds = "all" if about.kinds == ALL else ", ".join(kind.value for kind in about.kinds)
        rows.append(f"| `{' / '.join(flags(name))}` | {shown} | {kinds} | {about.what} |")
    return "\n".join(("| option | default | for | what it does |", "| --- | --- | --- | --- |", *rows)) + "\n"
