"""What a classifier asks of a GPU for a batch of texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.contract import HeadGraph
from runtime.cuda.accelerator import CUDA, Accelerator
from runtime.session import open_session
from tests.cuda.standin import StandIn

pytestmark = pytest.mark.cuda


def test_a_batch_of_texts_is_copied_in_and_out_once(
    standin: StandIn, write_fp16: Callable[..., Path]
) -> None:
    graph = write_fp16(architectures=["GPT2ForSequenceClassification"], pad_token_id=0)
    session = open_session(graph, 1, Accelerator())
    assert session.get_providers()[0] == CUDA
    ids, lengths = np.ones((3, 8), np.int64), np.array([8, 5, 2])
    standin.take()
    (logits,) = session.run(None, {HeadGraph.INPUT_IDS: ids, HeadGraph.LENGTHS: lengths})
    trace = standin.take()
    assert logits.shape == (3, 2)
    # Token ids, lengths, and the padded length, which is computed on the host.
    assert len(trace.of("copy", "host-device")) == 3
    assert len(trace.of("copy", "device-host")) == 1
    assert trace.counts["wait"] == 2
