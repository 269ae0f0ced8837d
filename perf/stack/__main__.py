"""`lmaas perf stack WHAT`: measure, write the report, print the target and whether it holds."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import Protocol

import perf.stack
from cli.client import DEFAULT_URL
from perf.stack import classify, facade, in_process, long_prompts, memory, start
from perf.stack.report import Report, publish
from perf.stack.running import Stack


class Measurement(Protocol):
    """What each of the modules is."""

    def add_options(self, parser: argparse.ArgumentParser, /) -> None: ...

    def measure(self, stack: Stack, options: argparse.Namespace, /) -> Report: ...


MEASUREMENTS: dict[str, Measurement] = {
    "in-process": in_process,
    "facade": facade,
    "classify": classify,
    "long-prompts": long_prompts,
    "memory": memory,
    "start": start,
}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="lmaas perf stack",
        description=perf.stack.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = found.add_subparsers(dest="what", metavar="WHAT", required=True)
    for what, measurement in MEASUREMENTS.items():
        about = str(measurement.__doc__)
        adding = commands.add_parser(
            what,
            help=about.partition("\n")[0],
            description=about,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        measurement.add_options(adding)
        adding.add_argument("--model", help="a model's name or a deployment's id; needless where one fits")
        adding.add_argument("--url", default=os.environ.get("LMAAS_URL", DEFAULT_URL), help="of the façade")
        adding.add_argument(
            "--pid", type=int, help="of the façade; without it, who listens on the URL's port"
        )
        adding.add_argument("--name", default=f"stack-{what}", help="of the report's files in perf/results")
    return found


def main() -> None:
    options = parser().parse_args()
    stack = Stack.find(options.url, options.pid)
    arguments = sys.argv[1:]
    if "--url" not in arguments and options.url != DEFAULT_URL:
        arguments += ["--url", options.url]
    report = MEASUREMENTS[options.what].measure(stack, options)
    publish(options.name, f"lmaas perf stack {shlex.join(arguments)}", report)


if __name__ == "__main__":
    main()
