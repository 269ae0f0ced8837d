"""`lmaas perf`: measure a running appliance over its API."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.command import Url, fail
from cli.completion import deployed_names
from cli.show import plain
from cli.tasks import Model
from client.http import DEFAULT_URL, Client, api_key

if TYPE_CHECKING:
    from perf.deployed import Deployed
    from perf.http.ask import Ask
    from perf.http.capacity import Found
    from perf.http.plan import Plan
    from perf.http.prompts import Texts

perf = typer.Typer(
    help="Measure a running appliance: load over HTTP and on Triton, capacity.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

ROOT = Path(__file__).resolve().parents[1]
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

TaskName = Annotated[str, typer.Option("--task", help="generate, classify, infer or nlu.")]
Words = Annotated[int, typer.Option(help="Words of a prompt.", min=1)]
Tokens = Annotated[int | None, typer.Option(help="Tokens of a prompt, exactly; in place of words.", min=1)]
TokenizerPath = Annotated[
    Path | None, typer.Option(help="What counts them: a tokenizer.json, or the folder of a model with one.")
]
MaxTokens = Annotated[int, typer.Option(help="The largest number of new tokens, for task generate.", min=1)]
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

Concurrency = Annotated[str | None, typer.Option(help="A closed loop: requests under way, as 1,4,16,64.")]
Rate = Annotated[str | None, typer.Option(help="An open loop: requests per second, as 5,10,20.")]
ArrivalNames = Annotated[str, typer.Option(help="Of an open loop: poisson or constant.")]
ApiName = Annotated[str, typer.Option(help="What the server speaks: lmaas or openai.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.", min=0)]
Whole = Annotated[bool, typer.Option("--whole", help="Answers at once, not streamed.")]
Duration = Annotated[float, typer.Option(help="Seconds measured at each level.", min=0.1)]
Requests = Annotated[
    int | None, typer.Option(help="Requests measured at each level; in place of a duration.", min=1)
]
Warmup = Annotated[float, typer.Option(help="Seconds of load before those measured.", min=0)]
Rounds = Annotated[int, typer.Option(help="Times through all levels and servers.", min=1)]
Timeout = Annotated[float, typer.Option(help="Seconds that one request may take.", min=0.1)]

Subjects = Annotated[
    list[str] | None,
    typer.Argument(help="Models or ids of deployments; without one, all that are ready."),
]
UnderWay = Annotated[str, typer.Option(help="Requests under way.")]
Window = Annotated[float, typer.Option(help="Seconds of one of perf_analyzer's windows.", min=0.1)]
Stability = Annotated[
    float, typer.Option(help="Percent by which three windows in a row may differ.", min=0.1)
]
Trials = Annotated[int, typer.Option(help="Windows until it gives up.", min=3)]

OneDeployment = Annotated[
    str | None,
    typer.Argument(
        help="A deployment's id or a model's name; without it, all that are ready.",
        autocompletion=deployed_names,
    ),
]
TaskOfKind = Annotated[
    str | None,
    typer.Option("--task", help="generate, classify, infer or nlu; without it, by the model's kind."),
]
TargetSeconds = Annotated[
    float | None,
    typer.Option(
        help="Seconds within which 95 of 100 must have their first token (generate: 0.5 without this"
        " option) or their answer (else: 0.2).",
        min=0.001,
    ),
]
SecondsEach = Annotated[float, typer.Option(help="Measured at each rate that is tried.", min=1)]
Record = Annotated[bool, typer.Option("--record", help="Write the capacity to the deployment's record.")]


@perf.command("http")
def http(
    concurrency: Concurrency = None,
    rate: Rate = None,
    arrivals: ArrivalNames = "poisson",
    task: TaskName = "generate",
    model: Model = None,
    api: ApiName = "lmaas",
    peer: Peers = None,
    prompt_words: Words = 24,
    prompt_tokens: Tokens = None,
    tokenizer: TokenizerPath = None,
    max_tokens: MaxTokens = 64,
    ignore_eos: IgnoreEos = False,
    temperature: Temperature = 0.0,
    whole: Whole = False,
    duration: Duration = 10.0,
    requests: Requests = None,
    warmup: Warmup = 2.0,
    rounds: Rounds = 1,
    timeout: Timeout = 60.0,
    seed: Seed = 0,
    name: ReportName = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Put a running server under load; report times to the first token, between tokens, end to end.

    Tables go to the terminal and, with every figure and curves, to perf/results/NAME.md, .json and .png.
    """
    from perf.http.ask import Api
    from perf.http.load import Arrivals, Extent
    from perf.http.plan import LoadTarget, Plan, parse_choice, parse_levels

    own_name = "lmaas" if api == "lmaas" else "server"
    own = LoadTarget(own_name, url, parse_choice("--api", Api, api), model, key=api_key())
    plan = Plan(
        [own, *map(LoadTarget.parse, peer or ())],
        parse_levels(concurrency, rate),
        _ask(task, max_tokens, ignore_eos, temperature, stream=not whole),
        _texts(prompt_words, prompt_tokens, tokenizer),
        Extent(warmup, duration, requests),
        parse_choice("--arrivals", Arrivals, arrivals),
        rounds,
        timeout,
        seed,
    )
    _put_under_load(plan, name)


def _put_under_load(plan: Plan, name: str | None) -> None:
    from perf.http.ask import Task
    from perf.http.progress import Progress
    from perf.http.report import write_loads
    from perf.http.run import greet, run
    from perf.report import command_line

    plan.check()
    plan = greet(plan)
    default = "http" if plan.ask.task is Task.GENERATE else f"http-{plan.ask.task.value}"
    write_loads(name or default, command_line(), plan, run(plan, Progress()))


@perf.command("triton")
def triton(
    model: Subjects = None,
    concurrency: UnderWay = "1,4,16",
    prompt_words: Words = 24,
    prompt_tokens: Tokens = None,
    tokenizer: TokenizerPath = None,
    max_tokens: MaxTokens = 64,
    ignore_eos: IgnoreEos = False,
    window: Window = 2.0,
    stability: Stability = 25.0,
    trials: Trials = 10,
    seed: Seed = 0,
    name: ReportName = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Run NVIDIA's perf_analyzer on the appliance's Triton, by gRPC, without the façade.

    The first use installs it under var/perf_analyzer. It needs libb64: `apt-get install libb64-0d`.
    """
    from perf.counts import parse_counts
    from perf.deployed import find_deployed, grpc_address
    from perf.http.progress import Progress
    from perf.report import command_line
    from perf.triton.installation import find_analyzer
    from perf.triton.report import write_analyses
    from perf.triton.run import Measuring, Subject, run

    levels = parse_counts("--concurrency", concurrency)
    texts = _texts(prompt_words, prompt_tokens, tokenizer)
    say = Progress().say
    subjects = []
    for deployed in find_deployed(url, model or ()):
        ask = _ask(deployed.task.value, max_tokens, ignore_eos, 0.0, stream=True)
        subjects.append(Subject(deployed, grpc_address(url, deployed), ask))
    measuring = Measuring(window, stability, trials, seed)
    levels_measured = run(find_analyzer(say), subjects, levels, texts, measuring, say)
    write_analyses(name or "triton", command_line(), measuring, texts, subjects, levels_measured)


@perf.command("capacity")
def capacity(
    deployment: OneDeployment = None,
    task: TaskOfKind = None,
    target: TargetSeconds = None,
    prompt_words: Words = 24,
    prompt_tokens: Tokens = None,
    tokenizer: TokenizerPath = None,
    max_tokens: MaxTokens = 64,
    ignore_eos: IgnoreEos = False,
    seconds: SecondsEach = 5.0,
    record: Record = False,
    seed: Seed = 0,
    name: ReportName = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Find the highest rate of requests at which the 95th percentile stays within a target."""
    from perf.deployed import check_alone, find_deployed
    from perf.http.capacity import capacity as search
    from perf.http.report import write_capacities
    from perf.report import command_line

    every, wanted = find_deployed(url), find_deployed(url, [deployment] if deployment else ())
    for deployed in wanted:
        check_alone(every, deployed)
    texts = _texts(prompt_words, prompt_tokens, tokenizer)
    command = command_line()
    find = partial(
        search, url, command=command, target_seconds=target, texts=texts, seconds=seconds, seed=seed
    )
    asked = [
        (each, _ask(task or each.task.value, max_tokens, ignore_eos, 0.0, stream=True)) for each in wanted
    ]
    found, failures = _find_each(find, asked, url if record else None)
    if found:
        write_capacities(name or "capacity", command, found)
    if failures:
        fail(plain("\n".join(failures)))


def _find_each(
    find: Callable[..., Found], asked: Sequence[tuple[Deployed, Ask]], record_at: str | None
) -> tuple[list[tuple[Found, Ask]], list[str]]:
    """What was found, which is recorded at that URL where there is one; and the failures."""
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
    """Write the capacity to the record of the deployment."""
    with Client(url) as client:
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


@perf.command("gpu", hidden=True, context_settings=PASSED_ON, add_help_option=False)
def gpu(context: typer.Context) -> None:
    """The same as `python -m bench gpu`, under the name that it had before."""
    if not (ROOT / "bench" / "gpu").is_dir():
        fail("`lmaas perf gpu` is `python -m bench gpu`, which only the source tree has")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "bench", "gpu", *context.args]
    raise typer.Exit(subprocess.run(command, env=variables).returncode)
