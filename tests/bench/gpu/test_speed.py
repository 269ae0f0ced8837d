"""Turns, failures and figures of the measurement, with subjects that only say how long they took."""

from __future__ import annotations

import pytest

from bench.checkpoints import TOKENIZER_OF
from bench.gpu.speed import Case, measure
from bench.peers.material import PromptSource
from bench.peers.protocol import Prompts, Run
from runtime.contract import TOKENIZER_FILE


class Steady:
    """A first token after a second, each further one after a tenth."""

    def __init__(self, name: str, turns: list[str], fails_at: int = 10**9) -> None:
        self.name = name
        self._turns = turns
        self._fails_at = fails_at

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        if len(prompts) >= self._fails_at:
            raise RuntimeError("CUDA out of memory\nand much more")
        self._turns.append(self.name)
        seconds = 1.0 + 0.1 * (new_tokens - 1)
        return Run(seconds, [1.0] * len(prompts), [[1] * new_tokens for _ in prompts])


@pytest.fixture(scope="module")
def source() -> PromptSource:
    return PromptSource(TOKENIZER_OF / TOKENIZER_FILE)


def test_subjects_take_turns_and_the_first_round_is_not_counted(source: PromptSource) -> None:
    turns: list[str] = []
    subjects = [Steady("ours", turns), Steady("theirs", turns)]
    found = list(measure(subjects, [Case(4, 8)], source, rounds=2, new_tokens=11))
    ours, theirs = ["ours"] * 2, ["theirs"] * 2
    assert turns == [*ours, *theirs, *theirs, *ours, *ours, *theirs]
    assert [line["subject"] for line in found] == ["ours", "theirs"]
    assert (found[0]["batch"], found[0]["prompt"]) == (4, 8)
    assert found[0]["tokens_per_second"] == [4 * 11 / 2.0] * 2
    assert found[0]["step_seconds"] == pytest.approx([0.1, 0.1])


def test_a_subject_that_fails_fails_alone(source: PromptSource) -> None:
    subjects = [Steady("ours", []), Steady("theirs", [], fails_at=16)]
    found = list(measure(subjects, [Case(1, 8), Case(16, 8)], source, rounds=1, new_tokens=3))
    assert [line["failed"] for line in found] == ["", "", "", "RuntimeError: CUDA out of memory"]
    assert [len(line["step_seconds"]) for line in found] == [1, 1, 1, 0]
