"""`python -m bench host`: all rows decode while they are measured."""

from __future__ import annotations

from pathlib import Path

from bench.gpu.host import Host


def test_every_step_has_a_token_of_each_row(artifact: Path) -> None:
    rows, steps = 3, 10
    measured = Host(artifact, rows, 3 * rows + steps)
    step, output = measured.run(steps)
    assert step > 0
    assert output > 0
    # One token of each prompt, and at most one of each step between prompts.
    generated = measured.core.counters.generated_tokens
    assert rows * (steps + 1) <= generated <= rows * (steps + 2 * rows)
    assert measured.core.num_requests == rows
