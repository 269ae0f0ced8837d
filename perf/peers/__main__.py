"""The same work side by side: our engine and the other ways to run GPT-2 on a CPU.

python -m perf.peers install                 every peer's environment, under var/peers
python -m perf.peers run                     perf/results/peers.md, .json and .png
python -m perf.peers run --only-ours --ours int8,int4 --rounds 2 --report engine
"""

from __future__ import annotations

import argparse
import shlex
import sys

from perf.peers.bandwidth import measure_bandwidth
from perf.peers.catalogue import PEERS, Environment, Peer, environments, ours
from perf.peers.chart import draw
from perf.peers.findings import as_data, describe
from perf.peers.install import install
from perf.peers.rounds import Plan, measure
from perf.peers.worker import WorkerError
from perf.report import RESULTS, write
from runtime.contract import Variant

NEW_TOKENS = 64


def number(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers >= 1 are needed")
    return int(text)


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(number, text.split(",")))


def environment(text: str) -> Environment:
    for each in environments():
        if each.name == text:
            return each
    raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(e.name for e in environments())}")


def variants(text: str) -> list[Variant]:
    return [Variant(item) for item in text.split(",")]


def peers(text: str) -> list[Peer]:
    """In the catalogue's order."""
    wanted = text.split(",")
    known = [peer.name for peer in PEERS]
    if unknown := [name for name in wanted if name not in known]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
    return [peer for peer in PEERS if peer.name in wanted]


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m perf.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = found.add_subparsers(dest="command", required=True)
    installing = commands.add_parser("install", help="make the peers' environments")
    names = ", ".join(environment.name for environment in environments())
    installing.add_argument(
        "environments", nargs="*", type=environment, default=environments(), help=f"of {names}; default: all"
    )
    running = commands.add_parser("run", help="measure and write the report")
    running.add_argument("--peers", type=peers, default=list(PEERS), help="comma-separated; default: all")
    running.add_argument("--ours", type=variants, default=[Variant.INT8], help="our variants; default: int8")
    running.add_argument("--only-ours", action="store_true", help="no peers")
    running.add_argument("--prompts", type=numbers, default=(32, 512), help="lengths; default: 32,512")
    running.add_argument("--batches", type=numbers, default=(1, 4, 8, 16, 32), help="default: 1,4,8,16,32")
    running.add_argument("--rounds", type=number, default=5, help="after one that warms up; default: 5")
    running.add_argument("--threads", type=number, default=2, help="of each peer; default: 2")
    running.add_argument(
        "--report", default="peers", help="name of the files in perf/results; default: peers"
    )
    return found


def run(options: argparse.Namespace, command: str) -> None:
    chosen = [] if options.only_ours else options.peers
    plan = Plan(options.prompts, options.batches, options.rounds, NEW_TOKENS, options.threads)
    before = measure_bandwidth(options.threads)
    measured = measure([*chosen, *map(ours, options.ours)], plan)
    # A limit: whatever else ran while it was measured must not lower it.
    bandwidth = max(before, measure_bandwidth(options.threads))
    text = f"`{command}`\n\n{describe(measured, plan, bandwidth)}"
    write(options.report, text, {"command": command, **as_data(measured, plan, bandwidth)})
    draw(measured, plan, RESULTS / f"{options.report}.png")


def main(arguments: list[str] | None = None) -> int:
    """0 when all is done, 1 when an environment is missing or a peer failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    if options.command == "install":
        for each in options.environments:
            install(each)
        return 0
    if missing := missing_environments([] if options.only_ours else options.peers):
        print(f"not installed: {', '.join(missing)}; python -m perf.peers install", file=sys.stderr)
        return 1
    try:
        run(options, f"lmaas perf peers {shlex.join(arguments)}")
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def missing_environments(chosen: list[Peer]) -> list[str]:
    needed = {peer.environment.name: peer.environment for peer in chosen if peer.environment is not None}
    return [name for name, environment in needed.items() if not environment.is_installed]


if __name__ == "__main__":
    sys.exit(main())
