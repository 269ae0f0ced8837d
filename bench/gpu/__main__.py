"""`python -m bench.gpu`: `python -m bench gpu` where only typer and what the engine needs are installed."""

from __future__ import annotations

import sys

import typer

from bench.gpu.run import gpu
from perf.errors import PerfError

if __name__ == "__main__":
    try:
        typer.run(gpu)
    except PerfError as error:
        sys.exit(f"lmaas: {error}")
