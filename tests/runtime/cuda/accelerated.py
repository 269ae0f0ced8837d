"""Engines with the code path of a GPU on the CPU: one stream, sampling in graphs, buckets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from bench.gpu.stand import Stand
from runtime.config import EngineConfig
from runtime.contract import GRAPH_FILE, TOKENIZER_FILE, Variant
from runtime.cuda.accelerator import CUDA, Accelerator
from runtime.cuda.plan_session import PlanSession
from runtime.engine import Engine
from runtime.manifest import Manifest
from runtime.session import LmSession
from runtime.text import Tokenizer

HAS_GPU = CUDA in onnxruntime.get_available_providers()


def accelerated_engine(
    artifact: Path,
    variant: Variant = Variant.FP32,
    accelerator: Accelerator | None = None,
    plan: PlanSession | None = None,
    **settings: Any,
) -> Engine:
    manifest = Manifest.load(artifact)
    session = LmSession(artifact / variant.value / GRAPH_FILE, 1, accelerator or Stand(), plan)
    tokenizer = Tokenizer(artifact / TOKENIZER_FILE, manifest.architecture.eos_token_id)
    return Engine(manifest, EngineConfig(variant, **settings), session, tokenizer, lambda: None)
