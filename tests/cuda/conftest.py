"""The real `onnxruntime-gpu` on a CUDA that computes nothing: `make test-cuda`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.contract import GRAPH_FILE, Variant
from runtime.cuda.accelerator import Accelerator
from runtime.kv_cache import KvCache
from runtime.session import LmSession
from tests.cuda.standin import StandIn

CONTEXT = 256
SLOTS = 8
CHUNK = 64
# GPT-2's number of layers and size of a head, on which the kernels depend; the width of one head.
SHAPE: dict[str, Any] = {"n_embd": 64, "n_head": 1, "n_positions": CONTEXT}


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    made = StandIn(tmp_path_factory.mktemp("cuda"))
    made.load()
    return made


@pytest.fixture(scope="session")
def write_fp16(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the fp16 graph of a checkpoint whose config has these changes."""
    from bench.checkpoints import write_checkpoint
    from export.checkpoint.folder import Checkpoint
    from export.graph.build import write_graph

    def write(**changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("fp16")
        write_checkpoint("gpt2", folder / "checkpoint", **(SHAPE | changes))
        write_graph(Checkpoint.open(folder / "checkpoint"), Variant.FP16, folder / GRAPH_FILE)
        return folder / GRAPH_FILE

    return write


@pytest.fixture(scope="session")
def session(standin: StandIn, write_fp16: Callable[..., Path]) -> LmSession:
    """A session over GPT-2's twelve layers, with its cache."""
    opened = LmSession(write_fp16(), 1, Accelerator())
    cache = KvCache(opened.layout, SLOTS, CONTEXT, None, opened.make_memory)
    opened.attach(cache, CHUNK)
    return opened
