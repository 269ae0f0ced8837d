"""A TensorRT plan of an `lm` graph in fp16, built by TensorRT's own API: `python -m runtime.cuda.plan`.

The network is parsed from standard operators (runtime/cuda/standard.py) with the best token of each row
(runtime/cuda/sampling.py), so a plan has the inputs and outputs of the graph that ONNX Runtime runs, without
TOTAL_SEQUENCE_LENGTH. Types are those of the graph. KVCacheUpdate writes keys and values in place: past and
present need the same address. Each attention gets the number of valid rows of its sequence, which no ONNX
operator gives to TensorRT, and reads no others.

| profile | sequences | tokens of each |
| ------- | --------- | -------------- |
| DECODE  | 1 to all  | 1              |
| PREFILL | 1         | 1 to a chunk   |

TensorRT-RTX builds without a GPU, for a named capability; its fused attention takes four heads or more. A
plan runs with the version of TensorRT that built it, on the kind of GPU that it was built for. None was run.

The API: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/python-api-docs.html.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.contract import LmGraph
from runtime.cuda.sampling import append_best
from runtime.cuda.standard import standard_model

PACKAGES = ("tensorrt", "tensorrt_rtx_bindings")  # the first that is installed
DECODE, PREFILL = 0, 1
UNUSED = "Unused Input: "  # what TensorRT says of an input that nothing reads
Range = tuple[int, int, int]  # the least, the usual, the most


class PlanError(RuntimeError):
    """There is no plan; one line with the reason."""


@dataclass(frozen=True, slots=True)
class PlanLimits:
    num_slots: int
    most_tokens: int  # of a chunk of a prompt
    context: int  # rows of a slot


@dataclass(frozen=True, slots=True)
class PlanReport:
    tensorrt: str
    layers: dict[str, int]  # of the network by their kinds, before TensorRT joins them
    seconds: float
    size: int  # bytes


def library() -> Any:
    """TensorRT's module; raises PlanError."""
    for name in PACKAGES:
        try:
            found = importlib.import_module(name)
        except (ImportError, OSError):
            continue
        if not hasattr(found.IAttention, "key_value_lengths"):
            raise PlanError(f"TensorRT {found.__version__} is too old: 11.0 or newer is needed")
        return found
    raise PlanError("TensorRT is not installed: pip install tensorrt-cu13")


def build_plan(graph: Path, target: Path, limits: PlanLimits, capability: str = "") -> PlanReport:
    """Write the plan of `graph` to `target`; raises PlanError.

    It is for the GPU of this machine, or for a compute capability as TensorRT-RTX names it (`SM89`).
    """
    began = time.monotonic()
    trt, said = library(), list[str]()
    logger = _logger(trt, said)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    model = standard_model(graph, limits.context, masked=False)
    append_best(model, LmGraph.LOGITS)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString(), str(graph)):
        raise PlanError("; ".join(parser.get_error(number).desc() for number in range(parser.num_errors)))
    _limit_attention(trt, network)
    config = builder.create_builder_config()
    _add_profile(builder, config, network, (1, limits.num_slots, limits.num_slots), (1, 1, 1))
    _add_profile(builder, config, network, (1, 1, 1), (1, limits.most_tokens, limits.most_tokens))
    if capability:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None or any(UNUSED in line for line in said):
        raise PlanError(
            f"TensorRT {trt.__version__}: {' '.join(' '.join(said).split()) or 'no reason given'}"
        )
    _write(target, plan)
    kinds = Counter(layer.type.name for layer in _layers(network))
    seconds = round(time.monotonic() - began, 1)
    return PlanReport(trt.__version__, dict(kinds.most_common()), seconds, plan.nbytes)


def _inputs(network: Any) -> list[Any]:
    return [network.get_input(number) for number in range(network.num_inputs)]


def _layers(network: Any) -> list[Any]:
    return [network.get_layer(number) for number in range(network.num_layers)]


def _logger(trt: Any, said: list[str]) -> Any:
    """What TensorRT says of errors and of inputs goes to `said`."""

    def log(_self: object, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.ERROR or UNUSED in message:
            said.append(message)

    return type("Logger", (trt.ILogger,), {"log": log})()


def _limit_attention(trt: Any, network: Any) -> None:
    """Each attention reads seqlens_k + 1 rows; of these, a token reads those up to its own."""
    last = next(each for each in _inputs(network) if each.name == LmGraph.SEQLENS_K)
    one = network.add_constant((1,), trt.Weights(np.ones(1, np.int32))).get_output(0)
    lengths = network.add_elementwise(last, one, trt.ElementWiseOperation.SUM).get_output(0)
    for layer in _layers(network):
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            # The bindings give every layer its base class; that of its type has the attention.
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.causal_kind = trt.CausalMaskKind.LOWER_RIGHT
            layer.attention.key_value_lengths = lengths


def _add_profile(builder: Any, config: Any, network: Any, sequences: Range, tokens: Range) -> None:
    profile = builder.create_optimization_profile()
    for each in _inputs(network):
        sides = zip(sequences, tokens, strict=True)
        shapes = [_shape(each.name, tuple(each.shape), *pair) for pair in sides]
        if each.name == LmGraph.LOGIT_ROWS:
            shapes[0] = (0,)  # a chunk that does not end its prompt wants none
        profile.set_shape(each.name, *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise PlanError(f"TensorRT refuses a profile of {sequences} sequences of {tokens} tokens")


def _shape(name: str, dynamic: tuple[int, ...], sequences: int, tokens: int) -> tuple[int, ...]:
    if name == LmGraph.LOGIT_ROWS:
        return (sequences * tokens,)
    if name in (LmGraph.INPUT_IDS, LmGraph.POSITION_IDS):
        return (sequences, tokens)
    return (sequences, *dynamic[1:])


def _write(target: Path, plan: Any) -> None:
    """Another process sees no part of it."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    part.write_bytes(memoryview(plan))
    part.rename(target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report as JSON; 2 and one line on stderr where there is no plan."""
    parser = argparse.ArgumentParser(prog="python -m runtime.cuda.plan", description=__doc__)
    parser.add_argument("graph", type=Path)
    parser.add_argument("target", type=Path)
    for name in ("num-slots", "most-tokens", "context"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--capability", default="", help="compute capability; default: this machine's GPU")
    parser.add_argument("--memory", type=int, default=0, help="most bytes of this process; 0: any number")
    given = parser.parse_args(arguments)
    if given.memory:
        resource.setrlimit(resource.RLIMIT_DATA, (given.memory, given.memory))
    limits = PlanLimits(given.num_slots, given.most_tokens, given.context)
    try:
        report = build_plan(given.graph, given.target, limits, given.capability)
    except PlanError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(asdict(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
