"""`lmaas perf`: the commands behind every figure. They measure what runs already, from outside."""

from __future__ import annotations

import os
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.client import DEFAULT_URL, Url, connect, fail
from cli.show import plain
from cli.tasks import Model

if TYPE_CHECKING:
    from perf.deployed import Deployed
    from perf.http.ask import Ask
    from perf.http.capacity import Found
    from perf.http.prompts import Texts

perf = typer.Typer(
    help="Measure: load over HTTP and on Triton, capacity, peers, exports.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

TaskName = Annotated[str, typer.Option("--task", help="generate, classify, infer or nlu.")]
Words = Annotated[int, typer.Option(help="Words of a prompt.", min=1)]
Tokens = Annotated[int | None, typer.Option(help="Tokens of a prompt, exactly; in place of words.", min=1)]
TokenizerPath = Annotated[
    Path | None, typer.Option(help="What counts them: a tokenizer.json, or the folder of a model with one.")
]
MaxTokens = Annotated[int, typer.Option(help="At most so many new tokens, for task generate.", min=1)]
Peers = Annotated[
    list[str] | None,
    typer.Option(
        help="Another server under the same load in turn: NAME=API@URL, as"
        " vllm=openai@http://127.0.0.1:8000. May be repeated."
    ),
]
IgnoreEos = Annotated[bool, typer.Option("--ignore-eos", help="Go on after the end-of-text token.")]
Seed = Annotated[int, typer.Option(help="Of prompts and arrivals; the same seed, the same load.")]
ReportName = Annotated[
    str | None, typer.Option("--name", help="Of the report's files under perf/results.", show_default=False)
]


def command() -> str:
    """The command line that makes a report again, with what it took from the environment."""
    url = os.environ.get("LMAAS_URL")
    prefix = f"LMAAS_URL={shlex.quote(url)} " if url and "--url" not in sys.argv else ""
    return f"{prefix}lmaas {shlex.join(sys.argv[1:])}"


@contextmanager
def explained() -> Iterator[None]:
    """What cannot be measured, and what is not installed, ends the command with one line."""
    try:
        from perf.errors import PerfError
    except ImportError as error:
        fail(f"`lmaas perf` needs {error.name}: pip install -e '.[perf]' in a checkout")
    try:
        yield
    except PerfError as error:
        fail(plain(str(error)))
    except ImportError as error:
        fail(f"`lmaas perf` needs {error.name}: pip install -e '.[perf]' in a checkout")


@perf.command("http")
def http(
    concurrency: Annotated[
        str | None, typer.Option(help="A closed loop: so many requests under way, as 1,4,16,64.")
    ] = None,
    rate: Annotated[str | None, typer.Option(help="An open loop: requests per second, as 5,10,20.")] = None,
    arrivals: Annotated[str, typer.Option(help="Of an open loop: poisson or constant.")] = "poisson",
    task: TaskName = "generate",
    model: Model = None,
    api: Annotated[str, typer.Option(help="What the server speaks: lmaas or openai.")] = "lmaas",
    peer: Peers = None,
    prompt_words: Words = 24,
    prompt_tokens: Tokens = None,
    tokenizer: TokenizerPath = None,
    max_tokens: MaxTokens = 64,
    ignore_eos: IgnoreEos = False,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0)] = 0.0,
    whole: Annotated[bool, typer.Option("--whole", help="Answers at once, not streamed.")] = False,
    duration: Annotated[float, typer.Option(help="Seconds measured at each level.", min=0.1)] = 10.0,
    requests: Annotated[
        int | None, typer.Option(help="Requests measured at each level; in place of a duration.", min=1)
    ] = None,
    warmup: Annotated[float, typer.Option(help="Seconds of load before those measured.", min=0)] = 2.0,
    rounds: Annotated[int, typer.Option(help="So often through all levels and servers.", min=1)] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds that one request may take.", min=0.1)] = 60.0,
    seed: Seed = 0,
    name: ReportName = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Put a running server under load; report times to the first token, between tokens, end to end.

    Tables go to the terminal and, with every figure and curves, to perf/results/NAME.md, .json and .png.
    """
    with explained():
        from perf.http.ask import Api, Task
        from perf.http.plan import Plan, Target, parse_choice, parse_levels
        from perf.http.progress import Progress
        from perf.http.report import write_report
        from perf.http.run import run
        from perf.http.schedule import Arrivals, Extent
        from perf.http.served import greet

        own = Target("lmaas" if api == "lmaas" else "server", url, parse_choice("--api", Api, api), model)
        plan = Plan(
            [own, *map(Target.parse, peer or ())],
            parse_levels(concurrency, rate),
            _ask(task, max_tokens, ignore_eos, temperature, stream=not whole),
            _texts(prompt_words, prompt_tokens, tokenizer),
            Extent(warmup, duration, requests),
            parse_choice("--arrivals", Arrivals, arrivals),
            rounds,
            timeout,
            seed,
        )
        plan.check()
        plan = greet(plan)
        default = "http" if plan.ask.task is Task.GENERATE else f"http-{plan.ask.task.value}"
        write_report(name or default, command(), plan, run(plan, Progress()))


@perf.command("triton")
def triton(
    model: Annotated[
        list[str] | None,
        typer.Argument(help="Models or ids of deployments; without one, all that are ready."),
    ] = None,
    concurrency: Annotated[str, typer.Option(help="So many requests under way.")] = "1,4,16",
    prompt_words: Words = 24,
    prompt_tokens: Tokens = None,
    tokenizer: TokenizerPath = None,
    max_tokens: MaxTokens = 64,
    ignore_eos: IgnoreEos = False,
    window: Annotated[float, typer.Option(help="Seconds of one of perf_analyzer's windows.", min=0.1)] = 2.0,
    stability: Annotated[
        float, typer.Option(help="Percent by which three windows in a row may differ.", min=0.1)
    ] = 25.0,
    trials: Annotated[int, typer.Option(help="Windows until it gives up.", min=3)] = 10,
    seed: Seed = 0,
    name: ReportName = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Run NVIDIA's perf_analyzer on the appliance's Triton, by gRPC, without the façade.

    Installs it apart, under var/perf_analyzer, the first time.
    """
    with explained():
        from perf.deployed import find_deployed, grpc_address
        from perf.http.plan import parse_counts
        from perf.http.progress import Progress
        from perf.triton.installation import find_analyzer
        from perf.triton.report import write_analyses
        from perf.triton.run import Measuring, Subject, run

        levels = parse_counts("--concurrency", concurrency)
        texts = _texts(prompt_words, prompt_tokens, tokenizer)
        say = Progress().say
        subjects = [
            Subject(
                deployed,
                grpc_address(url, deployed),
                _ask(deployed.task.value, max_tokens, ignore_eos, 0.0, stream=True),
            )
            for deployed in find_deployed(url, model or ())
        ]
        measuring = Measuring(window, stability, trials, seed)
        levels_measured = run(find_analyzer(say), subjects, levels, texts, measuring, say)
        write_analyses(name or "triton", command(), measuring, texts, subjects, levels_measured)


@perf.command("capacity")
def capacity(
    deployment: Annotated[
        str | None,
        typer.Argument(help="A deployment's id or a model's name; without it, all that are ready."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="generate, classify, infer or nlu; without it, by the model's kind.")
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            help="Seconds within which 95 of 100 must have their first token (generate: 0.5 without this"
            " option) or their answer (else: 0.2).",
            min=0.001,
        ),
    ] = None,
    prompt_words: Words = 24,
    prompt_tokens: Tokens = None,
    tokenizer: TokenizerPath = None,
    max_tokens: MaxTokens = 64,
    ignore_eos: IgnoreEos = False,
    seconds: Annotated[float, typer.Option(help="Measured at each rate that is tried.", min=1)] = 5.0,
    record: Annotated[
        bool, typer.Option("--record", help="Write the capacity to the deployment's record.")
    ] = False,
    seed: Seed = 0,
    name: ReportName = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Find the highest rate of requests at which the 95th percentile stays within a target."""
    with explained():
        from perf.deployed import check_alone, find_deployed
        from perf.http import capacity as search
        from perf.http.capacity_report import write_capacities

        every, wanted = find_deployed(url), find_deployed(url, [deployment] if deployment else ())
        for deployed in wanted:
            check_alone(every, deployed)
        texts = _texts(prompt_words, prompt_tokens, tokenizer)
        find = partial(
            search.capacity,
            url,
            command=command(),
            target_seconds=target,
            texts=texts,
            seconds=seconds,
            seed=seed,
        )
        asked = [
            (each, _ask(task or each.task.value, max_tokens, ignore_eos, 0.0, stream=True)) for each in wanted
        ]
        found, failures = _find_each(find, asked, url if record else None)
        if found:
            write_capacities(name or "capacity", command(), found)
        if failures:
            fail(plain("\n".join(failures)))


def _find_each(
    find: Callable[..., Found], asked: Sequence[tuple[Deployed, Ask]], record_at: str | None
) -> tuple[list[tuple[Found, Ask]], list[str]]:
    """What was found, recorded at that URL where there is one; and of whom nothing was found, why."""
    from perf.errors import PlanError

    found, failures = [], []
    for deployed, ask in asked:
        try:
            done = find(deployed, ask=ask)
        except PlanError as error:
            failures.append(str(error))
            continue
        found.append((done, ask))
        if record_at is not None:
            _record(record_at, done)
    return found, failures


def _record(url: str, found: Found) -> None:
    """Where the autoscaler looks for it."""
    with connect(url) as client:
        client.call(
            "PATCH", f"/v1/deployments/{found.deployed.id}", json={"capacity": asdict(found.capacity)}
        )


def _ask(task: str, max_tokens: int, ignore_eos: bool, temperature: float, stream: bool) -> Ask:
    from perf.http.ask import Ask, Task
    from perf.http.plan import parse_choice

    return Ask(parse_choice("--task", Task, task), max_tokens, ignore_eos, temperature, stream)


def _texts(words: int, tokens: int | None, tokenizer: Path | None) -> Texts:
    from perf.http.prompts import Texts

    return Texts(words, tokens, None if tokenizer is None else str(tokenizer))


def _pass_on(module: str, arguments: list[str]) -> None:
    """Run a module of `perf` that has its own command line, as `python -m` would."""
    with explained():
        sys.argv = [f"lmaas {module.replace('.', ' ')}", *arguments]
        runpy.run_module(module, run_name="__main__")


# name -> (module, what it runs without arguments, help)
MODULES: dict[str, tuple[str, list[str], str]] = {
    "peers": (
        "perf.peers",
        ["run"],
        "LMaaS's engine beside its peers, in one run: the same work, each in its own environment.",
    ),
    "exports": ("perf.exports", [], "Seconds and memory of whole exports, in GPT-2's four sizes."),
    "recipes": ("perf.recipes", [], "Recipes for quantized weights side by side: speed and quality."),
    "variants": (
        "perf.variants",
        [],
        "The quality cards of the bundled models, written into their model cards.",
    ),
    "operators": ("perf.operators", [], "LMaaS's operators beside ONNX Runtime's, on one int8 graph."),
    "gpu": (
        "perf.gpu",
        [],
        "On a machine with a GPU: is the engine right there, and how fast beside transformers.",
    ),
    "stack": ("perf.stack", [], "Targets of the whole stack on this machine, and whether each holds."),
}


def _offer(name: str, module: str, default: list[str], about: str) -> None:
    @perf.command(name, help=about, context_settings=PASSED_ON, add_help_option=False)
    def run(context: typer.Context) -> None:
        _pass_on(module, context.args or default)


for _name, _offered in MODULES.items():
    _offer(_name, *_offered)
