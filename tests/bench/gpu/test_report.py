"""The report of recorded lines."""

from __future__ import annotations

from bench.gpu.report import report_of
from bench.gpu.runner import Line

GIGABYTE = 1e9
STEP: Line = {"micros_of_replay": 400.0, "micros_with_draw": 700.0, "bytes": 250_000_000}
RUN: list[Line] = [
    {"at": 0.4, "step": "facts", "gpu": "NVIDIA H200, 580.65.06, 143771 MiB", "gpus": 1},
    {"at": 0.5, "step": "facts", "ceiling": "by the driver", "bytes_per_second": 5000 * GIGABYTE},
    {"at": 0.5, "step": "facts", "ended": "done", "seconds": 0.5},
    {"at": 3.0, "step": "ceilings", "ceiling": "a node", "micros": 1.4},
    {"at": 3.1, "step": "ceilings", "ceiling": "reading", "bytes_per_second": 4200 * GIGABYTE},
    {"at": 3.2, "step": "ceilings", "ended": "too late", "seconds": 60.0, "reason": "stopped after 60 s"},
    {"at": 9.0, "step": "checks", "name": "greedy tokens, alone", "held": True, "found": "11 of 11"},
    {"at": 10.0, "step": "steps", "rows": 1, "micros": 400.0, **STEP},
    {"at": 10.1, "step": "steps", "rows": 64, "micros": 900.0, **STEP},
    {"at": 10.2, "step": "steps", "prompt": 23, "micros_of_first": 9000.0, "micros": 600.0},
    {"at": 20.0, "step": "engine", "batch": 1, "prompt": 32, "subject": "LMaaS", "failed": "",
     "tokens_per_second": [1500.0, 1700.0], "step_seconds": [0.0005, 0.0007]},
    {"at": 20.1, "step": "engine", "batch": 1, "prompt": 32, "subject": "transformers", "failed": "",
     "tokens_per_second": [170.0, 170.0], "step_seconds": [0.006, 0.006]},
    {"at": 20.2, "step": "engine", "batch": 64, "prompt": 32, "subject": "LMaaS", "failed": "",
     "tokens_per_second": [30000.0], "step_seconds": [0.002]},
    {"at": 20.3, "step": "engine", "batch": 64, "prompt": 32, "subject": "transformers",
     "failed": "OutOfMemoryError: none is left", "tokens_per_second": [], "step_seconds": []},
    {"at": 25.0, "step": "profile", "rows": 1, "nodes": 216.0, "micros_of_kernels": 390.5,
     "kernels": [["xqa", 12.0, 60.0]]},
    {"at": 30.0, "step": "without XQA", "rows": 1, "micros": 500.0, **STEP},
    {"at": 40.0, "step": "CUDA graph of transformers", "compiled": True, "rows": 1, "micros": 800.0},
    {"at": 41.0, "step": "gpt2-xl", "ended": "not begun", "reason": "the budget is used up"},
]  # fmt: skip


def row(report: str, *beginning: str) -> list[str]:
    """The cells of the first row that begins with these."""
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in report.splitlines())
    return next(cells for cells in rows if cells[: len(beginning)] == list(beginning))


def test_each_rung_is_reached_or_not_or_was_not_measured() -> None:
    report = report_of(RUN)
    # 250 MB in 400 us are 625 GB/s, of the 5,000 that the driver says: the strictest bandwidth counts.
    unit = "% of the memory's bandwidth"
    assert row(report, "gpt2, batch 1", f"12 {unit}")[2:] == [f"12.5 {unit}", "reached"]
    assert row(report, "gpt2, batch 1", f"25 {unit}")[3] == "not reached"
    assert row(report, "gpt2-xl, batch 1")[2:] == ["", "not measured"]
    assert row(report, "gpt2, batch 64")[1:] == ["50,000 tokens/s", "3.2e+04 tokens/s", "not reached"]
    assert row(report, "gpt2, batch 1", "5 x transformers eager")[2:] == [
        "10 x transformers eager",
        "reached",
    ]


def test_every_line_is_in_it() -> None:
    report = report_of(RUN)
    assert "- gpu: NVIDIA H200, 580.65.06, 143771 MiB" in report
    assert row(report, "ceilings", "too late")[2:] == ["60.0", "stopped after 60 s"]
    assert row(report, "a node")[1] == "1.4 us"
    assert row(report, "reading")[1] == "4,200 GB/s"
    assert row(report, "checks", "greedy tokens, alone")[2:] == ["held", "11 of 11"]
    assert row(report, "steps", "64")[2:] == ["900.0", "400.0", "700.0", "71,111", "5.6"]
    assert row(report, "without XQA", "1")[-1] == "10.0"
    assert row(report, "CUDA graph of transformers, compiled", "1")[2:] == ["800.0", "", "", "1,250", ""]
    assert row(report, "23")[1:] == ["9000.0", "600.0"]
    assert row(report, "1 x 32", "LMaaS")[2] == "1,600 (1,500 to 1,700)"
    assert row(report, "64 x 32", "transformers")[2] == "OutOfMemoryError: none is left"
    assert row(report, "xqa")[1:] == ["12.0", "60.0"]
    assert "216 nodes, 390.5 us" in report


def test_a_run_without_any_result_has_a_report_too() -> None:
    report = report_of(
        [{"at": 0.0, "step": "facts", "ended": "failed", "seconds": 1.0, "reason": "no driver"}]
    )
    assert row(report, "facts")[1:] == ["failed", "1.0", "no driver"]
    assert report.count("not measured") == 6
