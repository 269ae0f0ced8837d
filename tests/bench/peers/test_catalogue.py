"""The list of peers, and the command line over it."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from bench.peers.catalogue import PEERS, Environment, Instructions, environments, limited, ours
from bench.peers.commands import parse_environments, parse_peers
from bench.peers.machine import OtherLoad
from perf.errors import PlanError
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
    assert [peer.name for peer in parse_peers("llama-q8_0,vllm")] == ["vllm", "llama-q8_0"]


def test_environments_by_name() -> None:
    assert [environment.name for environment in parse_environments(["vllm"])] == ["vllm"]
    assert parse_environments([]) == environments()
    with pytest.raises(PlanError, match="'nothing' is not one of transformers, "):
        parse_environments(["nothing"])


def test_what_is_compiled_is_compiled_anew_for_fewer_instructions() -> None:
    native, avx2 = environments(), environments(Instructions.AVX2)
    moved = [old.name for old, new in zip(native, avx2, strict=True) if old.folder != new.folder]
    assert moved == ["llama_cpp"]
    assert {new.requirements for new in avx2} == {old.requirements for old in native}
    assert [limited(peer, Instructions.NATIVE) for peer in PEERS] == list(PEERS)


@pytest.mark.parametrize(
    "arguments", [["--peers", "nobody"], ["--ours", "int3"], ["--batches", "0"], ["--prompts", "x"]]
)
def test_nonsense_is_refused(arguments: list[str]) -> None:
    ended = CliRunner().invoke(app, ["peers", "run", *arguments])
    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"lmaas: {arguments[0]}: ")
    assert ended.stderr.count("\n") == 1


def test_missing_environments_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.peers.catalogue.Environment.is_installed", property(lambda self: False))
    ended = CliRunner().invoke(app, ["peers", "run", "--peers", "llama-q8_0,llama-q4_0,vllm"])
    assert ended.exit_code == 1
    assert "not installed: vllm, llama_cpp; python -m bench peers install" in ended.stderr


def test_what_others_took_is_a_share() -> None:
    others = OtherLoad(1)
    with others.measured():
        sum(range(200_000))
    assert 0 <= others.shares[0] <= 1
