"""The report and the picture, of figures that were made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.peers.catalogue import PEERS, ours
from bench.peers.protocol import Run
from bench.peers.report import as_data, describe, draw, share_of_limit
from bench.peers.rounds import Cell, PeerResult, Sweep
from runtime.contract import Variant

PLAN = Sweep(prompt_lengths=(32, 512), batches=(1, 4), rounds=3, new_tokens=10, threads=2)


def found(index: int, speed: float) -> PeerResult:
    peer = [*PEERS, ours(Variant.INT8)][index]
    measured = PeerResult(
        peer, {"package": "1.0"}, "as it comes", same_first_token=[True, False], others=[0.02]
    )
    for cell in PLAN.cells:
        for slower in (1, 2, 4):
            seconds = cell.batch * PLAN.new_tokens * slower / (speed * cell.batch)
            tokens = [[0] * PLAN.new_tokens] * cell.batch
            firsts = [0.1 * (1 + row) for row in range(cell.batch)]
            measured.figures[cell].add([Run(seconds, firsts, tokens)])
    return measured


@pytest.fixture
def measured() -> list[PeerResult]:
    speeds = {"transformers": 20.0, "openvino": 160.0, "llama-q4_0": 200.0}
    others = [found(index, speeds[peer.name]) for index, peer in enumerate(PEERS) if peer.name in speeds]
    return [*others, found(-1, 240.0)]


def test_tables_hold_medians_with_their_spread(measured: list[PeerResult]) -> None:
    text = describe(measured, PLAN, 50e9)
    assert "| OpenVINO GenAI, int8 | 80 (40 to 160) | 320 (160 to 640) |" in text
    assert "| ours, int8 : best int8 peer | 1.50 (openvino) | 1.50 (openvino) |" in text
    assert "| ours, int8 : best peer | 1.20 (llama-q4_0) | 1.20 (llama-q4_0) |" in text
    assert (
        "| ours, int8 | 100 (100 to 100) | 250 (250 to 250) |" in text
    )  # first token of the median sequence
    assert "| ours, int8 | 100 (100 to 100) | 400 (400 to 400) |" in text  # of the last sequence
    assert "50.0 GB/s" in text


def test_ours_alone_has_no_ratio() -> None:
    assert "Ours against" not in describe([found(-1, 100)], PLAN, 50e9)


def test_the_limit_is_one_reading_of_the_weights_for_each_step(measured: list[PeerResult]) -> None:
    engine = measured[-1]
    whole = engine.peer.step_bytes * 120  # bytes/s with which 120 steps/s are the limit
    assert share_of_limit(engine, Cell(32, 1), whole) == pytest.approx(1.0)
    assert share_of_limit(engine, Cell(32, 4), whole) == pytest.approx(1.0)


def test_data_keeps_every_round(measured: list[PeerResult]) -> None:
    data = as_data(measured, PLAN, 50e9)
    cell = data["peers"][-1]["cells"][0]
    assert (cell["prompt_length"], cell["batch"]) == (32, 1)
    assert cell["tokens_per_second"] == pytest.approx([240, 120, 60])
    assert data["peers"][0]["first_tokens_as_first_peer"] == 0.5


def test_the_picture_is_a_png(measured: list[PeerResult], tmp_path: Path) -> None:
    path = tmp_path / "peers.png"
    draw(measured, PLAN).savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG")
