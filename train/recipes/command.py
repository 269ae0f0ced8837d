"""The command line that all recipes share."""

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

Stage = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Recipe:
    """A model's two stages, each called with the data folder and the checkpoint folder."""

    name: str
    train: Stage
    describe: Stage


def working_folder(out: Path) -> Path:
    """Where a run keeps its checkpoints and metrics: beside the checkpoint folder `out`."""
    return out.with_name(out.name + "-training")


def arguments(description: str | None, out_help: str) -> argparse.ArgumentParser:
    """`--data`, `--out`, `--card-only` and `--threads`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--out", type=Path, required=True, help=out_help)
    parser.add_argument(
        "--card-only", action="store_true", help="measure an existing checkpoint, write its card"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    return parser


def execute(recipe: Recipe, data: Path, out: Path, card_only: bool, threads: int) -> None:
    """Train (unless `card_only`), then measure the saved checkpoint and write its card."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
    if not card_only:
        recipe.train(data, out)
    recipe.describe(data, out)


def main(recipe: Recipe, description: str | None) -> None:
    """Run one recipe from the command line."""
    chosen = arguments(description, "the checkpoint folder to write").parse_args()
    execute(recipe, chosen.data, chosen.out, chosen.card_only, chosen.threads)
