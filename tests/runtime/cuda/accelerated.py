"""Engines with the code path of a GPU on the CPU: OrtValues, sampling in the graph, buckets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from kernels.session import CPU
from runtime.config import EngineConfig
from runtime.contract import GRAPH_FILE, TOKENIZER_FILE, Variant
from runtime.cuda.accelerator import CUDA, Accelerator, Provider
from runtime.engine import Engine
from runtime.manifest import Manifest
from runtime.session import LmSession
from runtime.text import Tokenizer

HAS_GPU = CUDA in onnxruntime.get_available_providers()


class Stand(Accelerator):
    """The CPU; everything but the providers is as on a GPU."""

    __slots__ = ()

    @property
    def memory(self) -> str:
        return "cpu"

    def check(self) -> None:
        """The CPU is always there."""

    def providers(self, capture: bool) -> list[Provider]:
        return [CPU]

    def check_opened(self, session: onnxruntime.InferenceSession) -> None:
        assert session.get_providers() == [CPU]


def accelerated_engine(
    artifact: Path,
    variant: Variant = Variant.FP32,
    accelerator: Accelerator | None = None,
    **settings: Any,
) -> Engine:
    manifest = Manifest.load(artifact)
    session = LmSession(artifact / variant.value / GRAPH_FILE, 1, accelerator or Stand())
    tokenizer = Tokenizer(artifact / TOKENIZER_FILE, manifest.architecture.eos_token_id)
    return Engine(manifest, EngineConfig(variant, **settings), session, tokenizer, lambda: None)
