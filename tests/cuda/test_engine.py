"""A whole engine on the stand-in: what requests ask of the GPU after all graphs were recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from runtime.contract import Operation, Variant
from runtime.cuda.accelerator import Accelerator
from runtime.engine import Engine
from tests.cuda.standin import StandIn
from tests.runtime.cuda.accelerated import accelerated_engine
from tests.runtime.engines import ask, token_ids

pytestmark = [pytest.mark.cuda, pytest.mark.timeout(300)]  # it exports a model

TOKENS = 6
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}


@pytest.fixture(scope="module")
def engine(standin: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    from export.pipeline import export_checkpoint
    from tests.export.checkpoints import save_lm

    folder = tmp_path_factory.mktemp("engine")
    save_lm(folder / "checkpoint")
    export_checkpoint(
        folder / "checkpoint", folder / "artifact", name="tiny", variants=[Variant.FP32, Variant.FP16]
    )
    opened = accelerated_engine(
        folder / "artifact", Variant.FP16, Accelerator(), num_slots=4, prefill_chunk=64
    )
    opened.check_integrity()  # the step thread answers, so it has recorded all graphs
    yield opened
    opened.close()


def test_a_request_records_nothing(engine: Engine, standin: StandIn) -> None:
    """The thread that runs the steps has recorded the graphs: another one's would not be replayed."""
    standin.take()
    assert token_ids(engine, "the cat and the dog", **GREEDY) == [0] * TOKENS  # of logits that are all zero
    trace = standin.take()
    assert not trace.of("capture")
    assert not trace.of("malloc")
    assert trace.counts["graph"] == trace.counts["wait"] == TOKENS
    assert set(trace.counts) == {"graph", "wait", "copy"}


def test_an_embedding_runs_without_a_graph(engine: Engine, standin: StandIn) -> None:
    standin.take()
    assert len(ask(engine, "the cat ran", Operation.EMBED)["embedding"]) == 64
    trace = standin.take()
    assert not trace.of("graph")
    assert trace.of("kernel")
