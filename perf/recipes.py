"""Recipes for quantized weights side by side: speed on GPT-2's 124M shape, quality on the bundled models.

    python -m perf.recipes

Every recipe is a graph of its own, run as a server runs it. Speed: milliseconds of a decode step for 1, 4 and
16 rows and of a prompt of 128 tokens, the recipes in turn, so that the machine's drift falls on all alike.
Quality: the figures of the quality card. `alone` says whether an answer is the same to the last bit alone and
among 16 others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.checkpoint.folder import Checkpoint
from export.graph.build import build_graph
from export.graph.builder import GraphBuilder
from export.graph.eight_bit import EightBitWeights, quantize_rows
from export.graph.four_bit import FourBitWeights
from export.graph.weights import Floats, FullWeights, Weights
from export.quality.reference import Reference, open_reference
from export.rounding.calibration import measure_ranges
from export.rounding.smoothing import SmoothedCheckpoint
from export.session import LanguageSession
from perf.checkpoints import write_checkpoint
from perf.report import command_line, markdown_table, spread, write
from runtime.contract import GRAPH_FILE, Variant

MODELS = Path(__file__).resolve().parents[1] / "models"
BUNDLED = ("mini-lm", "mini-sentiment", "mini-nli", "mini-nlu")
BATCHES = (1, 4, 16)
PROMPT = 128
CONTEXT = 192
STEPS = 12  # of decoding, timed together


class WholeTensor(EightBitWeights):
    """Activations share one scale over all rows: quick, but an answer depends on who else is there."""

    def linear(
        self, path: str, x: str, weight: Floats, bias: Floats | None = None, lowest: float | None = None
    ) -> str:
        whole, scales = quantize_rows(weight.T)
        data = self._graph.weight(f"{path}.weight", np.ascontiguousarray(whole.T))
        inputs = [x, data, self._graph.weight(f"{path}.scales", scales)]
        product = self._graph.microsoft("DynamicQuantizeMatMul", path, inputs)
        if bias is None:
            return product
        return self._graph.node("Add", f"{path}.add", [product, self.fused_bias(path, bias)])


class Kept(EightBitWeights):
    """Rows of eight bits, but for the products whose path ends with `kept`, which stay float32."""

    def __init__(self, graph: GraphBuilder, kept: str) -> None:
        super().__init__(graph)
        self._kept = kept
        self._full = FullWeights(graph)

    def linear(
        self, path: str, x: str, weight: Floats, bias: Floats | None = None, lowest: float | None = None
    ) -> str:
        if path.endswith(self._kept):
            return self._full.linear(path, x, weight, bias)
        return super().linear(path, x, weight, bias, lowest)

    def unembedding(self, path: str, x: str, table_path: str, table: Floats, output: str) -> str:
        if path.endswith(self._kept):
            # The look-up has the table in eight bits already; the product has a copy in full.
            return self._full.unembedding(path, x, f"{table_path}.full", table, output)
        return super().unembedding(path, x, table_path, table, output)


@dataclass(frozen=True, slots=True)
class Recipe:
    name: str
    weights: Callable[[GraphBuilder], Weights]
    smoothed: bool = False


RECIPES = (
    Recipe("fp32", FullWeights),
    Recipe("8 bits by row, smoothed (int8)", EightBitWeights, smoothed=True),
    Recipe("8 bits by row, not smoothed", EightBitWeights),
    Recipe("8 bits by row, mlp.c_proj fp32", lambda graph: Kept(graph, "mlp.c_proj"), smoothed=True),
    Recipe("8 bits by row, lm_head fp32", lambda graph: Kept(graph, "lm_head"), smoothed=True),
    Recipe("8 bits, activations by whole tensor", WholeTensor, smoothed=True),
    Recipe("8 bits in blocks of 32", lambda graph: FourBitWeights(graph, 8, 32)),
    Recipe("8 bits in blocks of 128", lambda graph: FourBitWeights(graph, 8, 128)),
    Recipe("4 bits in blocks of 32 (int4)", FourBitWeights),
    Recipe("4 bits in blocks of 128", lambda graph: FourBitWeights(graph, 4, 128)),
)


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint with its fp32 graph and the answers of it, and a folder for the other graphs."""

    checkpoint: Checkpoint
    reference: Reference
    folder: Path

    def graph(self, recipe: Recipe) -> Path:
        """The graph of a recipe, written where it is not there yet."""
        path = self.folder / str(RECIPES.index(recipe)) / GRAPH_FILE
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            build_graph(self._prepared(recipe), recipe.weights, path)
        return path

    def session(self, recipe: Recipe, rows: int) -> LanguageSession:
        """As a server opens it."""
        architecture = self.checkpoint.config.architecture
        return LanguageSession(self.graph(recipe), Variant.INT8, architecture, rows, CONTEXT, lean=False)

    def _prepared(self, recipe: Recipe) -> Checkpoint:
        if not recipe.smoothed:
            return self.checkpoint
        ranges = measure_ranges(self.graph(RECIPES[0]), self.reference.rows, self.checkpoint.config)
        return SmoothedCheckpoint(self.checkpoint, ranges)


@contextmanager
def open_model(source: Path, folder: Path) -> Iterator[Model]:
    checkpoint = Checkpoint.open(source)
    folder.mkdir()
    graph = folder / "0" / GRAPH_FILE
    graph.parent.mkdir()
    build_graph(checkpoint, FullWeights, graph)
    with TemporaryFile(dir=folder) as scratch:
        reference = open_reference(
            graph,
            checkpoint.config,
            checkpoint.tokenizer,
            None,
            scratch,
            lambda share: None,
        )
        reference.measure(graph, Variant.FP32, lambda share: None)
        yield Model(checkpoint, reference, folder)


def measure_speed(model: Model, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by recipe and work, one for each repeat."""
    sessions = {recipe.name: model.session(recipe, max(BATCHES)) for recipe in RECIPES}
    times: dict[str, dict[str, list[float]]] = {name: {} for name in sessions}
    prompts = np.random.default_rng(0).integers(0, 1000, (max(BATCHES), PROMPT))
    for repeat in range(repeats + 1):  # the first warms up
        for name, session in sessions.items():
            for work, taken in _run(session, prompts):
                if repeat:
                    times[name].setdefault(work, []).append(1000 * taken)
        print(f"speed: round {repeat} of {repeats}", flush=True)
    return times


def _run(session: LanguageSession, prompts: NDArray[np.int64]) -> Iterator[tuple[str, float]]:
    begin = time.perf_counter()
    session.prefill([prompts[0].tolist()])
    yield f"prompt of {PROMPT}", time.perf_counter() - begin
    for batch in BATCHES:
        session.prefill(prompts[:batch, :32].tolist())
        begin = time.perf_counter()
        for step in range(STEPS):
            session.decode(prompts[:batch, 32 + step], np.full(batch, 32 + step))
        yield f"step of {batch}", (time.perf_counter() - begin) / STEPS


def is_alone_as_among_others(model: Model, recipe: Recipe) -> bool:
    """Whether each of 17 rows has the same logits by itself, prompt and next step, to the last bit."""
    session = model.session(recipe, 17)
    rows = [row[: 9 + place] for place, row in enumerate(model.reference.rows[:17])]
    lengths = np.array([len(row) for row in rows])
    together = session.prefill(rows), session.decode(np.full(17, 5), lengths)
    alone = [
        (session.prefill([row]), session.decode(np.full(1, 5), lengths[place : place + 1]))
        for place, row in enumerate(rows)
    ]
    return all(
        np.array_equal(together[part][place], answer[part][0])
        for place, answer in enumerate(alone)
        for part in (0, 1)
    )


def measure_quality(folder: Path) -> dict[str, dict[str, object]]:
    """By recipe: bytes and card on mini-lm, label agreement on the heads, and whether batches show."""
    found: dict[str, dict[str, object]] = {recipe.name: {} for recipe in RECIPES}
    for name in BUNDLED:
        with open_model(MODELS / name, folder / name) as model:
            for recipe in RECIPES[1:]:
                graph = model.graph(recipe)
                found[recipe.name][name] = model.reference.measure(
                    graph, Variant.INT8, lambda share: None
                ).quality
                if name == "mini-lm":
                    found[recipe.name]["alone"] = is_alone_as_among_others(model, recipe)
        print(f"quality: {name}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7, help="rounds of the speed measurement")
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        quality = measure_quality(Path(scratch))
        write_checkpoint("gpt2", Path(scratch) / "checkpoint")
        with open_model(Path(scratch) / "checkpoint", Path(scratch) / "gpt2") as model:
            times = measure_speed(model, options.repeats)
            sizes = {
                recipe.name: sum(path.stat().st_size for path in model.graph(recipe).parent.iterdir())
                for recipe in RECIPES
            }
    works = list(times[RECIPES[0].name])
    speed = [
        (name, f"{sizes[name] / 1e6:.0f}", *(spread(taken[work]) for work in works))
        for name, taken in times.items()
    ]
    command = command_line("recipes")
    text = f"`{command}`\n\nMilliseconds on random weights of the 124M shape, median (least to most):\n\n"
    text += markdown_table(("recipe", "MB", *works), speed)
    text += "\nAgainst fp32 on the bundled models:\n\n"
    columns = ("recipe", "perplexity", "KL", "top-1", *(f"{name} labels" for name in BUNDLED[1:]), "alone")
    text += markdown_table(columns, [_quality_row(name, cards) for name, cards in quality.items() if cards])
    write("recipes", text, {"command": command, "milliseconds": times, "bytes": sizes, "quality": quality})


def _quality_row(name: str, cards: dict[str, Any]) -> list[object]:
    lm = cards["mini-lm"]
    heads = [
        f"{cards[head]['label_agreement']:.1%}, shift {cards[head]['max_probability_shift']:.3f}"
        for head in BUNDLED[1:]
    ]
    same = "same" if cards["alone"] else "differs"
    return [
        name,
        f"{lm['perplexity_change']:+.2%}",
        f"{lm['mean_kl']:.5f}",
        f"{lm['top1_agreement']:.1%}",
        *heads,
        same,
    ]


if __name__ == "__main__":
    main()
