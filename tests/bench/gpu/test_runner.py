"""Steps as processes: a failure, a hang or a check that does not hold stays with its own step."""

from __future__ import annotations

import sys
from typing import Any

from bench.gpu.runner import Line, Step, run_steps

SAYS = "import json, sys; print(json.dumps({'found': sys.argv[1]}), flush=True)"
MINUTES = 600.0


def step(name: str, script: str, seconds: float = 60.0, **more: Any) -> Step:
    return Step(name, seconds, [sys.executable, "-c", script, name], **more)


def run(*steps: Step, budget: float = MINUTES) -> list[Line]:
    written: list[Line] = []
    lines = run_steps(steps, budget, written.append)
    assert written == lines
    return lines


def endings(lines: list[Line]) -> dict[str, str]:
    return {line["step"]: line["ended"] for line in lines if "ended" in line}


def test_lines_have_their_step_and_what_was_found_before_a_failure_stays() -> None:
    lines = run(
        step("first", SAYS),
        step("second", f"{SAYS}; sys.exit(3)"),
        step("third", f"{SAYS}; print(json.dumps({{'failure': 'no memory'}})); sys.exit(1)"),
        step("fourth", f"{SAYS}; print('no JSON')"),
    )
    assert [line["step"] for line in lines if line.get("found") == line["step"]] == [
        "first",
        "second",
        "third",
        "fourth",
    ]
    assert endings(lines) == {"first": "done", "second": "failed", "third": "failed", "fourth": "done"}
    reasons = [line["reason"] for line in lines if "reason" in line]
    assert reasons == ["its process ended with status 3", "no memory"]
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)


def test_one_that_hangs_is_stopped_and_the_next_one_runs() -> None:
    hangs = step("hangs", "import signal; signal.pause()", seconds=0.2)
    closes = step("closes", "import os, signal; os.close(1); signal.pause()", seconds=0.5)
    lines = run(hangs, closes, step("next", SAYS))
    assert endings(lines) == {"hangs": "too late", "closes": "too late", "next": "done"}
    assert lines[0]["reason"] == "stopped after 0.2 s"


def test_nothing_is_timed_where_a_check_does_not_hold() -> None:
    checks = "print('{\"held\": true}'); print('{\"held\": false}')"
    lines = run(step("checks", checks), step("speed", SAYS, needs=["checks"]), step("other", SAYS))
    assert endings(lines) == {"checks": "not held", "speed": "not begun", "other": "done"}
    assert "it needs the step checks" in [line.get("reason") for line in lines]


def test_a_step_that_looks_for_a_cause_runs_only_where_there_is_one() -> None:
    looks = [step(f"without {name}", SAYS, only_without=name) for name in ("right", "wrong")]
    lines = run(step("right", SAYS), step("wrong", "print('{\"held\": false}')"), *looks)
    assert endings(lines) == {
        "right": "done",
        "wrong": "not held",
        "without right": "not needed",
        "without wrong": "done",
    }


def test_without_time_left_no_step_begins() -> None:
    (line,) = run(step("first", SAYS), budget=1.0)
    assert (line["ended"], line["reason"]) == ("not begun", "the budget is used up")


def test_a_step_has_its_variables() -> None:
    says = "import json, os; print(json.dumps({'xqa': os.environ['ORT_ENABLE_XQA']}))"
    assert run(step("case", says, environment={"ORT_ENABLE_XQA": "0"}))[0]["xqa"] == "0"
