"""Turns, failures and figures of the measurement, with subjects that only say how long they took."""

from __future__ import annotations

import pytest

from bench.checkpoints import TOKENIZER_OF
from bench.gpu.speed import COLUMNS, Case, CaseResult, Traffic, measure
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
    case = Case(4, 8)
    found = measure(subjects, [case], source, rounds=2, new_tokens=11, say=lambda line: None)
    ours, theirs = ["ours"] * 2, ["theirs"] * 2
    assert turns == [*ours, *theirs, *theirs, *ours, *ours, *theirs]
    measured = found[case]["ours"]
    assert measured.tokens_per_second == [4 * 11 / 2.0] * 2
    assert measured.step_seconds == pytest.approx([0.1, 0.1])


def test_a_subject_that_fails_fails_alone(source: PromptSource) -> None:
    turns: list[str] = []
    subjects = [Steady("ours", turns), Steady("theirs", turns, fails_at=16)]
    cases = [Case(1, 8), Case(16, 8)]
    found = measure(subjects, cases, source, rounds=1, new_tokens=3, say=lambda line: None)
    assert not found[cases[0]]["theirs"].failure
    assert "RuntimeError: CUDA out of memory" in found[cases[1]]["theirs"].failure
    assert not found[cases[1]]["ours"].failure
    row = found[cases[1]]["theirs"].row("theirs", cases[1], Traffic(1, 1), 1.0, 3)
    assert len(row) == len(COLUMNS)
    assert "\n" not in row[2]


def test_the_share_of_the_bandwidth_is_of_what_a_step_must_read() -> None:
    traffic, case = Traffic(weights=1000, per_token=10), Case(2, 30)
    assert traffic.of_step(case, 40) == 1000 + 2 * 50 * 10
    row = CaseResult([7.0], [0.5]).row("ours", case, traffic, 8000.0, 40)
    assert row[3:] == ["4 (4 to 4)", "500.00 (500.00 to 500.00)", "50 (50 to 50)"]
