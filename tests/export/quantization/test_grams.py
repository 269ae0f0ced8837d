"""Gram matrices of activations: of every product, the same in one pass and in many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.checkpoint.folder import Checkpoint
from export.graph.build import write_graph
from export.quantization import grams
from export.quantization.activations import open_activations
from export.quantization.grams import GramMatrices, product_inputs
from runtime.contract import Variant

ROWS = [[int(token) for token in np.random.default_rng(seed).integers(1, 290, 30)] for seed in range(3)]


@pytest.mark.parametrize("kind", ["lm", "classifier", "nlu"])
def test_matrices_are_of_what_the_products_read(
    kind: str, checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Checkpoint.open(checkpoint(kind))
    (graph,) = write_graph(plain, Variant.FP32, tmp_path / "plain.onnx")
    wanted = {name: width for layer in product_inputs(plain.config) for name, width in layer.items()}
    with open_activations(graph, wanted, plain.config) as reader:
        names = [name for name in wanted if name in reader.names]
        assert len(names) == len(wanted) - (kind == "nlu")
        expected = {name: np.zeros((wanted[name], wanted[name])) for name in names}
        for run in reader.runs(names, ROWS):
            for name, values in run.items():
                expected[name] += values.astype(np.float64).T @ values
        at_once = GramMatrices(reader, ROWS, plain.config)
        monkeypatch.setattr(grams, "HELD_BYTES", 0)
        by_layer = GramMatrices(reader, ROWS, plain.config)
        for name in names:
            found = at_once(name)
            np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-3)
            assert np.array_equal(by_layer(name), found)
    assert [path.name for path in tmp_path.iterdir()] == ["plain.onnx"]
