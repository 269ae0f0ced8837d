"""The list of peers, and the command line over it."""

from __future__ import annotations

import re

import pytest

from perf.peers.__main__ import main, parser
from perf.peers.catalogue import PEERS, Environment, environments, ours
from perf.peers.others import Others
from runtime.contract import Variant

PARAMETERS = 12 * 12 * 768**2 + 50257 * 768  # of the matrices of GPT-2, 124M


def test_names_are_different() -> None:
    names = [peer.name for peer in PEERS] + [ours(variant).name for variant in Variant]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("environment", environments(), ids=lambda environment: environment.name)
def test_every_requirement_is_pinned(environment: Environment) -> None:
    lines = environment.requirements.read_text("utf-8").splitlines()
    assert lines
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9.]*", line) for line in lines)


def test_bytes_of_a_step() -> None:
    sizes = {peer.name: peer.step_bytes for peer in PEERS}
    assert sizes["transformers"] == 4 * PARAMETERS
    assert sizes["vllm"] == 2 * PARAMETERS
    assert ours(Variant.INT8).step_bytes == sizes["openvino"] == PARAMETERS
    assert sizes["llama-q8_0"] == PARAMETERS * 34 / 32


def test_chosen_peers_come_in_the_order_of_the_list() -> None:
    options = parser().parse_args(["run", "--peers", "llama-q8_0,vllm", "--batches", "1,16"])
    assert [peer.name for peer in options.peers] == ["vllm", "llama-q8_0"]
    assert options.batches == (1, 16)
    assert options.ours == [Variant.INT8]


@pytest.mark.parametrize(
    "arguments", [["--peers", "nobody"], ["--ours", "int3"], ["--batches", "0"], ["--prompts", "x"]]
)
def test_nonsense_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", *arguments])
    assert arguments[0] in capsys.readouterr().err


def test_missing_environments_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("perf.peers.catalogue.Environment.is_installed", property(lambda self: False))
    assert main(["run", "--peers", "llama-q8_0,llama-q4_0,vllm"]) == 1
    assert "not installed: vllm, llama_cpp" in capsys.readouterr().err


def test_what_others_took_is_a_share() -> None:
    others = Others(1)
    with others.measured():
        sum(range(200_000))
    assert 0 <= others.shares[0] <= 1
