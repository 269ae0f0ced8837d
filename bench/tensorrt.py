"""A language model in standard operators and fp16: how far it is from fp32, and what TensorRT makes of it.

    python -m bench tensorrt ARTIFACT

The comparison runs on the CPU. TensorRT's parser is that of TensorRT-RTX, which needs no GPU: the packages
`tensorrt-rtx-cu13-bindings` and `-libs`, which `make test-cuda` installs apart. Nothing is run by TensorRT.
"""

from __future__ import annotations

import importlib
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.graph.standard import MASK, WRITE_INDICES, write_standard
from export.session import LanguageSession, log_softmax
from perf.errors import PerfError
from runtime.contract import Kind, LmGraph, Variant
from runtime.manifest import Architecture, Manifest

BINDINGS = "tensorrt_rtx_bindings"
PROMPTS, STEPS = (1, 7, 30), 8  # tokens of the compared prompts, and steps after them
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a parser of TensorRT made of a graph."""

    errors: list[str]
    layers: Counter[str]
    unused: list[str]  # inputs that nothing reads: TensorRT would ignore what they say


def parse(graph: Path) -> Parsed:
    """Raises PerfError where the parser is not installed."""
    try:
        trt = importlib.import_module(BINDINGS)
    except ImportError:
        raise PerfError(f"no parser: pip install tensorrt-rtx-cu13-bindings and -libs ({BINDINGS})") from None
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parser.parse_from_file(str(graph))
    errors = [parser.get_error(number).desc() for number in range(parser.num_errors)]
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    tensors = (layer.get_input(number) for layer in layers for number in range(layer.num_inputs))
    read = {tensor.name for tensor in tensors if tensor is not None}
    inputs = [network.get_input(number).name for number in range(network.num_inputs)]
    kinds = Counter(str(layer.type).rpartition(".")[2] for layer in layers)
    return Parsed(errors, kinds, [name for name in inputs if name not in read])


class StandardSession:
    """A graph of `write_standard` on the CPU, over caches of some rows."""

    def __init__(self, graph: Path, shape: Architecture, rows: int, element: type[np.floating[Any]]) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._context = shape.context_length
        self._caches = {
            name: np.zeros((rows, heads, self._context, shape.head_size), element)
            for layer, heads in enumerate(shape.heads)
            for name in (LmGraph.past_key(layer), LmGraph.past_value(layer))
        }

    def run(self, tokens: NDArray[np.int64], pasts: Sequence[int], wanted: Sequence[int]) -> Floats:
        """Logits of the `wanted` of all tokens `[rows, length]`; `pasts` are the tokens before each row."""
        starts = np.array(pasts, np.int64)
        positions = starts[:, None] + np.arange(tokens.shape[1])
        names = [LmGraph.LOGITS, *(name.replace("past", "present") for name in self._caches)]
        logits, *caches = self._session.run(
            names,
            {
                LmGraph.INPUT_IDS: tokens,
                LmGraph.POSITION_IDS: np.minimum(positions, self._context - 1),
                LmGraph.LOGIT_ROWS: np.array(wanted, np.int64),
                WRITE_INDICES: starts,
                MASK: np.arange(self._context)[None, None, None, :] <= positions[:, None, :, None],
                **self._caches,
            },
        )
        self._caches = dict(zip(self._caches, caches, strict=True))
        return np.asarray(logits, np.float32)


def difference(artifact: Path, graph: Path, variant: Variant) -> float:
    """The largest of a log-probability from the fp32 graph: prompts of several lengths, then steps."""
    shape = Manifest.load(artifact).architecture
    reference = LanguageSession(
        artifact / Manifest.load(artifact).variants[Variant.FP32].graph.path,
        Variant.FP32,
        shape,
        rows=len(PROMPTS),
        context=shape.context_length,
    )
    element = np.float16 if variant is Variant.FP16 else np.float32
    found = StandardSession(graph, shape, len(PROMPTS), element)
    random = np.random.default_rng(0)
    lengths = np.array(PROMPTS, np.int64)
    prompts = random.integers(0, shape.vocab_size, (len(PROMPTS), max(PROMPTS)))
    last = np.arange(len(PROMPTS)) * max(PROMPTS) + lengths - 1
    expected = reference.prefill(
        [row[:length].tolist() for row, length in zip(prompts, lengths, strict=True)]
    )
    apart = [_apart(expected, found.run(prompts, [0] * len(PROMPTS), last.tolist()))]
    for _ in range(STEPS):
        tokens = random.integers(0, shape.vocab_size, len(PROMPTS))
        logits = found.run(tokens[:, None], lengths.tolist(), range(len(PROMPTS)))
        apart.append(_apart(reference.decode(tokens, lengths), logits))
        lengths = lengths + 1
    return max(apart)


def _apart(expected: Floats, found: Floats) -> float:
    return float(np.abs(log_softmax(expected) - log_softmax(found)).max())


def tensorrt(artifact: Path) -> None:
    manifest = Manifest.load(artifact)
    if manifest.kind is not Kind.LM or Variant.FP16 not in manifest.variants:
        raise PerfError(f"{artifact}: not an artifact of a language model with fp16")
    files = manifest.variants[Variant.FP16].files
    with TemporaryDirectory() as scratch:
        for file in files:
            shutil.copy(artifact / file.path, scratch)
        source = Path(scratch) / Path(manifest.variants[Variant.FP16].graph.path).name
        graph = source.with_name("standard.onnx")
        write_standard(source, graph, manifest.architecture.context_length)
        apart = difference(artifact, graph, Variant.FP16)
        print(f"log-probabilities are at most {apart:.3g} nats from fp32 on the CPU", flush=True)
        parsed = parse(graph)
    layers = ", ".join(f"{count} {kind}" for kind, count in parsed.layers.most_common())
    print(f"TensorRT: {len(parsed.errors)} errors, {sum(parsed.layers.values())} layers ({layers})")
    print(f"inputs that it ignores: {', '.join(parsed.unused) or 'none'}")
    if parsed.errors or parsed.unused:
        raise PerfError("; ".join([*parsed.errors, *(f"{name} is ignored" for name in parsed.unused)]))
