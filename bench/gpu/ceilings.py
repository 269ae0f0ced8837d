"""What this GPU can do at most, apart from any model: by ONNX Runtime alone, and by torch where it is there.

The figures bound a decode step from below: it reads all weights once, and each of its nodes waits for the one
before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from bench.gpu.runner import Line
from runtime.cuda.accelerator import Accelerator
from runtime.cuda.captured import CapturedRuns
from runtime.cuda.stream import Buffer, Stream

Shape = tuple[int, ...]
HALF = np.float16


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the measured graphs; the defaults are those of GPT-2, and of a GPU with a second cache of 60 MiB."""

    nodes: int = 256  # that depend on each other
    products: int = 24  # of different weights, which together pass the second cache
    hidden: int = 768
    inner: int = 3072
    vocabularies: Sequence[int] = (50257, 50304)  # odd, and the next multiple of 64
    columns: int = 65536  # of the product that reads most: [1, 8192] x [8192, columns]
    rows: int = 8192
    copied: int = 1 << 30  # bytes
    launches: int = 20  # between two waits
    rounds: int = 7  # the quickest one counts: nothing makes a GPU too quick


class _Graph(CapturedRuns[int]):
    """A graph in fp16 with inputs and outputs on the GPU, as one CUDA graph."""

    def __init__(self, accelerator: Accelerator, model: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        super().__init__(accelerator.open(model.SerializeToString(), options, capture=True))
        self._stream = accelerator.stream
        self._shapes = {value.name: _shape(value) for value in (*model.graph.input, *model.graph.output)}
        self._inputs = [value.name for value in model.graph.input]
        self._buffers: list[Buffer] = []

    def seconds(self, sizes: Sizes) -> float:
        """Of one replay, of some that follow each other."""

        def replays() -> None:
            for _ in range(sizes.launches):
                self.run(0)
            self._stream.wait()

        return _quickest(replays, sizes.rounds) / sizes.launches

    def _bind(self, binding: Any, key: int) -> None:
        for name, shape in self._shapes.items():
            buffer = self._stream.allocate(HALF().nbytes * int(np.prod(shape)))
            self._buffers.append(buffer)
            bind = binding.bind_input if name in self._inputs else binding.bind_output
            bind(name, self._stream.device, 0, HALF, shape, buffer.address)


def ceilings(accelerator: Accelerator, sizes: Sizes) -> Iterator[Line]:
    """Each line has microseconds or bytes per second."""

    def micros(model: onnx.ModelProto, count: int = 1) -> float:
        return round(1e6 * _Graph(accelerator, model).seconds(sizes) / count, 3)

    yield {"ceiling": "a node that waits for another", "micros": micros(_chain(sizes.nodes), sizes.nodes)}
    product = micros(_products(sizes.products, sizes.hidden, sizes.inner), sizes.products)
    yield {"ceiling": f"a product of 1 x {sizes.hidden} x {sizes.inner}", "micros": product}
    for vocab in sizes.vocabularies:
        yield {"ceiling": f"a head of {vocab:,} tokens", "micros": micros(_head(sizes.hidden, vocab))}
    read = HALF().nbytes * sizes.rows * sizes.columns
    took = _Graph(accelerator, _products(1, sizes.rows, sizes.columns)).seconds(sizes)
    yield {"ceiling": "reading, by one large product", "bytes_per_second": read / took}
    turn = round(1e6 * _read_back(accelerator.stream, sizes), 2)
    yield {"ceiling": "8 bytes to the GPU and back", "micros": turn}
    yield from _of_torch(sizes)


def _read_back(stream: Stream, sizes: Sizes) -> float:
    """Seconds for one token to the GPU and back, with a wait."""
    host, device = stream.pinned(8), stream.allocate(8)

    def turn() -> None:
        stream.push(device.address, host.ctypes.data, 8)
        stream.pull(host.ctypes.data, device.address, 8)
        stream.wait()

    return _quickest(turn, 10 * sizes.rounds)


def _of_torch(sizes: Sizes) -> Iterator[Line]:
    try:
        import torch
    except ImportError:
        return
    if not torch.cuda.is_available():
        return
    source = torch.zeros(sizes.copied // 2, dtype=torch.float16, device="cuda")
    target = torch.empty_like(source)
    works: Mapping[str, tuple[int, Callable[[], object]]] = {
        "copying, by torch (read and written)": (2 * sizes.copied, lambda: target.copy_(source)),
        "reading, by torch": (sizes.copied, source.sum),
    }
    for name, (moved, work) in works.items():

        def waited(work: Callable[[], object] = work) -> None:
            for _ in range(sizes.launches):
                work()
            torch.cuda.synchronize()

        took = _quickest(waited, sizes.rounds) / sizes.launches
        yield {"ceiling": name, "bytes_per_second": moved / took}


def _quickest(work: Callable[[], None], rounds: int) -> float:
    """Seconds; a first round that loads and captures is not counted."""
    work()
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def _chain(count: int) -> onnx.ModelProto:
    """Each node adds the input to the result of the one before."""
    names = ["x", *(f"sum.{number}" for number in range(count))]
    nodes = [helper.make_node("Add", [before, "x"], [after]) for before, after in pairwise(names)]
    return _model(nodes, {"x": (1, 64)}, {names[-1]: (1, 64)})


def _products(count: int, rows: int, columns: int) -> onnx.ModelProto:
    """One row times each of `count` weights."""
    nodes = [helper.make_node("MatMul", ["x", f"w.{number}"], [f"y.{number}"]) for number in range(count)]
    weights: dict[str, Shape] = {f"w.{number}": (rows, columns) for number in range(count)}
    return _model(
        nodes, {"x": (1, rows), **weights}, {f"y.{number}": (1, columns) for number in range(count)}
    )


def _head(hidden: int, vocab: int) -> onnx.ModelProto:
    """As `export/graph/weights.py` writes it."""
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    return _model([node], {"x": (1, hidden), "w": (vocab, hidden)}, {"y": (1, vocab)})


def _model(
    nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]
) -> onnx.ModelProto:
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name, shape in values.items()]
        for values in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "ceiling", *infos)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _shape(value: onnx.ValueInfoProto) -> Shape:
    return tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
