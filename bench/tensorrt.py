"""A language model in standard operators and fp16: how far it is from fp32, and what TensorRT builds of it.

    python -m bench tensorrt ARTIFACT

The comparison runs on the CPU. The builder is that of TensorRT-RTX, which needs no GPU for a named compute
capability: the packages `tensorrt-rtx-cu13-bindings` and `-libs`, which `make test-cuda` installs apart.
Nothing is run by TensorRT.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import onnxruntime
import typer
from numpy.typing import NDArray

from export.session import LanguageSession, log_softmax
from kernels.session import CPU, WEIGHTS_FOLDER
from perf.errors import PerfError
from runtime.config import GPU_CHUNK, EngineSettings
from runtime.contract import Kind, LmGraph, Variant
from runtime.cuda.plan import PlanError, PlanLimits, build_plan
from runtime.cuda.standard import standard_model
from runtime.manifest import Architecture, Manifest

PROMPTS, STEPS = (1, 7, 30), 8  # tokens of the compared prompts, and steps after them
Floats = NDArray[np.float32]


class StandardSession:
    """A graph in standard operators on the CPU, over caches of some rows."""

    def __init__(self, graph: Path, shape: Architecture, rows: int, element: type[np.floating[Any]]) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry(WEIGHTS_FOLDER, str(graph.parent))
        model = standard_model(graph, shape.context_length).SerializeToString()
        self._session = onnxruntime.InferenceSession(model, options, providers=[CPU])
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
                LmGraph.SEQLENS_K: (starts + tokens.shape[1] - 1).astype(np.int32),
                **self._caches,
            },
        )
        self._caches = dict(zip(self._caches, caches, strict=True))
        return np.asarray(logits, np.float32)


def difference(artifact: Path, variant: Variant) -> float:
    """The largest of a log-probability from the fp32 graph: prompts of several lengths, then steps."""
    manifest = Manifest.load(artifact)
    shape, variants = manifest.architecture, manifest.variants
    reference = LanguageSession(
        artifact / variants[Variant.FP32].graph.path,
        Variant.FP32,
        shape,
        rows=len(PROMPTS),
        context=shape.context_length,
    )
    element = np.float16 if variant is Variant.FP16 else np.float32
    found = StandardSession(artifact / variants[variant].graph.path, shape, len(PROMPTS), element)
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


def tensorrt(
    artifact: Path,
    capability: Annotated[str, typer.Option(help="The compute capability that is built for.")] = "SM89",
) -> None:
    manifest = Manifest.load(artifact)
    if manifest.kind is not Kind.LM or Variant.FP16 not in manifest.variants:
        raise PerfError(f"{artifact}: not an artifact of a language model with fp16")
    apart = difference(artifact, Variant.FP16)
    print(f"log-probabilities are at most {apart:.3g} nats from fp32 on the CPU", flush=True)
    graph = artifact / manifest.variants[Variant.FP16].graph.path
    limits = PlanLimits(EngineSettings().num_slots, GPU_CHUNK, manifest.architecture.context_length)
    try:
        with TemporaryDirectory() as scratch:
            report = build_plan(graph, Path(scratch) / "plan", limits, capability)
    except PlanError as error:
        raise PerfError(str(error)) from None
    layers = ", ".join(f"{count} {kind}" for kind, count in report.layers.items())
    print(f"TensorRT {report.tensorrt} built a plan for {capability} that uses every input:")
    print(f"{report.seconds} s, {report.size / 1e6:.1f} MB, {sum(report.layers.values())} layers ({layers})")
