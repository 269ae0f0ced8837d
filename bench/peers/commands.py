"""`python -m bench peers`: install the environments of the peers, and measure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer

import bench.peers
from bench import report
from bench.peers.catalogue import (
    CHECKPOINT,
    PEERS,
    SWITCHES,
    Environment,
    Instructions,
    Peer,
    environments,
    install,
    limited,
    ours,
)
from bench.peers.machine import measure_bandwidth
from bench.peers.material import write_material
from bench.peers.report import as_data, describe, draw
from bench.peers.rounds import Sweep, measure
from perf.counts import parse_counts
from perf.errors import PlanError
from perf.http.plan import parse_choice
from runtime.contract import Variant

NEW_TOKENS = 64

peers = typer.Typer(help=bench.peers.__doc__, no_args_is_help=True, rich_markup_mode="markdown")
ENVIRONMENTS = ", ".join(environment.name for environment in environments())
MostInstructions = Annotated[
    Instructions,
    typer.Option("--isa", help="What ours and the peers may use at most; some are compiled anew."),
]


@peers.command("install")
def install_environments(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {ENVIRONMENTS}; default: all.")] = None,
    isa: MostInstructions = Instructions.NATIVE,
) -> None:
    """Make the environments of the peers under var/peers."""
    for environment in parse_environments(names or (), isa):
        install(environment)


@peers.command("run")
def run(
    chosen: Annotated[str, typer.Option("--peers", help="Comma-separated, of all.")] = ",".join(
        peer.name for peer in PEERS
    ),
    our_variants: Annotated[str, typer.Option("--ours", help="Our variants, comma-separated.")] = "int8",
    only_ours: Annotated[bool, typer.Option("--only-ours", help="No peers.")] = False,
    prompts: Annotated[str, typer.Option(help="Tokens of a prompt.")] = "32,512",
    batches: Annotated[str, typer.Option(help="Sequences at once.")] = "1,4,8,16,32",
    rounds: Annotated[int, typer.Option(help="After one that warms up.", min=1)] = 5,
    threads: Annotated[int, typer.Option(help="Of each peer.", min=1)] = 2,
    isa: MostInstructions = Instructions.NATIVE,
    name: Annotated[str, typer.Option("--report", help="Name of the files in bench/results.")] = "peers",
) -> None:
    """Measure, and write bench/results/REPORT.md, .json and .png."""
    lengths, sizes = parse_counts("--prompts", prompts), parse_counts("--batches", batches)
    plan = Sweep(tuple(lengths), tuple(sizes), rounds, NEW_TOKENS, threads)
    variants = [parse_choice("--ours", Variant, name) for name in our_variants.split(",")]
    others = [] if only_ours else [limited(peer, isa) for peer in parse_peers(chosen)]
    require_installed(others)
    os.environ.update(SWITCHES[isa])
    write_material(CHECKPOINT)
    before = measure_bandwidth(threads)
    measured = measure([*others, *map(ours, variants)], plan, CHECKPOINT)
    # The larger of two: other load during one of them must not lower the limit.
    bandwidth = max(before, measure_bandwidth(threads))
    text, data = describe(measured, plan, bandwidth), as_data(measured, plan, bandwidth)
    report.write(name, text, data, partial(draw, measured, plan))


def parse_peers(text: str) -> list[Peer]:
    """In the order of the catalogue. Raises PlanError."""
    wanted = text.split(",")
    known = [peer.name for peer in PEERS]
    if unknown := [name for name in wanted if name not in known]:
        raise PlanError(f"--peers: {unknown[0]!r} is not one of {', '.join(known)}")
    return [peer for peer in PEERS if peer.name in wanted]


def parse_environments(names: Sequence[str], isa: Instructions = Instructions.NATIVE) -> list[Environment]:
    """All without names. Raises PlanError."""
    known = {environment.name: environment for environment in environments(isa)}
    if unknown := [name for name in names if name not in known]:
        raise PlanError(f"{unknown[0]!r} is not one of {ENVIRONMENTS}")
    return [known[name] for name in names] or list(known.values())


def require_installed(chosen: Sequence[Peer]) -> None:
    """Raises PlanError."""
    needed = {peer.environment.name: peer.environment for peer in chosen if peer.environment is not None}
    if missing := [name for name, environment in needed.items() if not environment.is_installed]:
        raise PlanError(f"not installed: {', '.join(missing)}; python -m bench peers install")
