"""What becomes of an artifact's graph, and that it says the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from export.pipeline import export_checkpoint
from kernels.fusion import fuse
from kernels.products import DOMAIN
from kernels.session import open_graph, open_plain
from runtime.contract import HeadGraph, Variant
from tests.export.checkpoints import save_classifier, save_lm


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Variant], Path]:
    """The graph of a small checkpoint, exported once."""
    folder = tmp_path_factory.mktemp("artifacts")

    def graph(kind: str, variant: Variant) -> Path:
        artifact = folder / f"{kind}-{variant.value}"
        if not artifact.exists():
            {"lm": save_lm, "classifier": save_classifier}[kind](folder / kind)
            export_checkpoint(folder / kind, artifact, name="x", variants=[variant])
        return artifact / variant.value / "model.onnx"

    return graph


def operators(model: onnx.ModelProto) -> Counter[tuple[str, str]]:
    return Counter((node.domain, node.op_type) for node in model.graph.node)


def test_every_product_and_attention_of_int8_is_ours(exported: Callable[[str, Variant], Path]) -> None:
    model = onnx.load(exported("lm", Variant.INT8))
    layers = operators(model)["com.microsoft", "GroupQueryAttention"]
    assert fuse(model)
    found = operators(model)
    assert found[DOMAIN, "Linear"] == 4 * layers + 1
    assert found[DOMAIN, "Attention"] == layers
    assert not any(domain == "com.microsoft" for domain, _ in found)


@pytest.mark.parametrize("kind", ["lm", "classifier"])
def test_every_product_of_int4_is_ours(kind: str, exported: Callable[[str, Variant], Path]) -> None:
    model = onnx.load(exported(kind, Variant.INT4))
    before = operators(model)
    layers = before["com.microsoft", "GroupQueryAttention"]
    assert fuse(model)
    found = operators(model)
    assert found[DOMAIN, "BlockLinear"] == before["com.microsoft", "MatMulNBits"] == 4 * layers
    assert not any(domain == "com.microsoft" for domain, _ in found)


def test_products_of_four_bits_with_other_scales_stay_as_they_are(
    exported: Callable[[str, Variant], Path], tmp_path: Path
) -> None:
    """As in artifacts of earlier versions: an answer does not depend on the number of rows there, either."""
    model = onnx.load(exported("classifier", Variant.INT4))
    node = next(node for node in model.graph.node if node.op_type == "MatMulNBits")
    numbers = {item.name: item.i for item in node.attribute}
    blocks = -(-numbers["K"] // numbers["block_size"])
    zeros = np.full((numbers["N"], -(-blocks // 2)), 0x88, np.uint8)
    model.graph.initializer.append(numpy_helper.from_array(zeros, "zeros"))
    node.input.append("zeros")
    graph = tmp_path / "model.onnx"
    onnx.save(model, graph)
    assert fuse(model)
    assert operators(model)["com.microsoft", "MatMulNBits"] == 1
    plain, fused = plain_and_fused(graph)
    ids = np.random.default_rng(0).integers(1, 290, (2, 7))
    lengths = np.array([7, 5])
    together = head_logits(fused, ids, lengths)
    np.testing.assert_allclose(together, head_logits(plain, ids, lengths), atol=0.05)
    assert np.array_equal(head_logits(fused, ids[:1], lengths[:1])[0], together[0])


@pytest.mark.parametrize("variant", [Variant.FP32, Variant.FP16])
def test_floats_are_left_alone(variant: Variant, exported: Callable[[str, Variant], Path]) -> None:
    model = onnx.load(exported("lm", variant))
    before = model.SerializeToString()
    assert not fuse(model)
    assert model.SerializeToString() == before


def plain_and_fused(graph: Path) -> list[onnxruntime.InferenceSession]:
    return [opened(graph, onnxruntime.SessionOptions()) for opened in (open_plain, open_graph)]


def head_logits(
    session: onnxruntime.InferenceSession, ids: NDArray[Any], lengths: NDArray[Any]
) -> NDArray[Any]:
    inputs = {HeadGraph.INPUT_IDS: ids, HeadGraph.LENGTHS: lengths}
    return np.asarray(session.run([HeadGraph.LOGITS], inputs)[0])


@pytest.mark.usefixtures("operators")
def test_a_classifier_says_the_same(exported: Callable[[str, Variant], Path]) -> None:
    plain, fused = plain_and_fused(exported("classifier", Variant.INT8))
    ids = np.random.default_rng(0).integers(1, 290, (6, 20))
    lengths = np.array([20, 3, 11, 1, 19, 8])
    expected, found = head_logits(plain, ids, lengths), head_logits(fused, ids, lengths)
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()


@pytest.mark.usefixtures("operators")
def test_a_product_of_another_make_stays_as_it_is(
    exported: Callable[[str, Variant], Path], tmp_path: Path
) -> None:
    """One constant is not what the pattern has: this product is left to ONNX Runtime, the others are not."""
    graph = exported("classifier", Variant.INT8)
    model = onnx.load(graph)
    first = next(node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat")
    doubled = numpy_helper.from_array(np.array(2, np.float32), "two")
    model.graph.initializer.append(doubled)
    first.input[2] = "two"
    changed = tmp_path / "model.onnx"
    onnx.save(model, changed)
    assert fuse(model)
    assert operators(model)["com.microsoft", "MatMulIntegerToFloat"] == 1
    plain, fused = plain_and_fused(changed)
    ids, lengths = np.arange(1, 13).reshape(1, 12), np.array([12])
    expected, found = head_logits(plain, ids, lengths), head_logits(fused, ids, lengths)
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()


@pytest.mark.usefixtures("operators")
def test_a_bias_that_is_computed_is_not_lost(
    exported: Callable[[str, Variant], Path], tmp_path: Path
) -> None:
    """Only constants go into an operator: this sum and its norm stay with ONNX Runtime."""
    model = onnx.load(exported("classifier", Variant.INT8))
    norm = next(
        node
        for node in model.graph.node
        if node.op_type == "SkipLayerNormalization" and len(node.input) > 4 and node.input[4]
    )
    bias = norm.input[4]
    model.graph.node.insert(0, onnx.helper.make_node("Add", [bias, bias], ["twice"], name="twice"))
    norm.input[4] = "twice"
    changed = tmp_path / "model.onnx"
    onnx.save(model, changed)
    assert fuse(model)
    assert operators(model)["com.microsoft", "SkipLayerNormalization"] == 1
    plain, fused = plain_and_fused(changed)
    ids, lengths = np.arange(1, 13).reshape(1, 12), np.array([12])
    expected, found = head_logits(plain, ids, lengths), head_logits(fused, ids, lengths)
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()


@pytest.mark.usefixtures("operators")
def test_heads_wider_than_ours_stay_with_onnxruntime(tmp_path: Path) -> None:
    save_classifier(tmp_path / "checkpoint", n_embd=264, n_head=1)
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "out", name="x", variants=[Variant.INT8])
    graph = tmp_path / "out" / "int8" / "model.onnx"
    model = onnx.load(graph)
    layers = operators(model)["com.microsoft", "GroupQueryAttention"]
    assert fuse(model)
    assert operators(model)["com.microsoft", "GroupQueryAttention"] == layers
    plain, fused = plain_and_fused(graph)
    ids, lengths = np.arange(1, 13).reshape(1, 12), np.array([12])
    expected, found = head_logits(plain, ids, lengths), head_logits(fused, ids, lengths)
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()
