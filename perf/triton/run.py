"""Run perf_analyzer over deployments and levels of concurrency."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from perf.deployed import Deployed
from perf.errors import AnalyzerError
from perf.http.ask import Ask, Task, halves
from perf.http.prompts import Texts
from perf.triton.analysis import Analysis, read_analysis
from perf.triton.installation import Analyzer
from runtime.contract import HeadTensors, Kind, LmTensors

UNSTABLE = "Failed to obtain stable measurement"
FAULTS = ("error:", "had error:", "Failed")  # in the lines that have the reason of its end
START_SECONDS = 60.0
ROWS = 512  # distinct inputs of one level


@dataclass(frozen=True, slots=True)
class Measuring:
    """How long, and how steady it has to be."""

    window: float = 2.0  # seconds
    stability: float = 25.0  # percent by which the last three windows may differ
    trials: int = 10  # windows, at most
    seed: int = 0  # of the prompts

    @property
    def words(self) -> str:
        return (
            f"windows of {self.window:g} s, until three in a row are within {self.stability:g} %,"
            f" {self.trials} at most"
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """A deployment, the HOST:PORT of its Triton's gRPC, and the request."""

    deployed: Deployed
    address: str
    ask: Ask


@dataclass(frozen=True, slots=True)
class LevelAnalysis:
    """One deployment at one concurrency; `analysis` is None where no measurement was steady."""

    deployed: Deployed
    concurrency: int
    analysis: Analysis | None


def run(
    analyzer: Analyzer,
    subjects: Sequence[Subject],
    levels: Sequence[int],
    texts: Texts,
    measuring: Measuring,
    say: Callable[[str], None],
) -> list[LevelAnalysis]:
    """By subject, then by concurrency. Raises AnalyzerError."""
    measured = []
    for subject in subjects:
        for concurrency in levels:
            with tempfile.TemporaryDirectory() as scratch:
                analysis = _analyze(analyzer, subject, concurrency, texts, measuring, Path(scratch))
            measured.append(LevelAnalysis(subject.deployed, concurrency, analysis))
            say(_progress_line(measured[-1], measuring))
    return measured


def _analyze(
    analyzer: Analyzer,
    subject: Subject,
    concurrency: int,
    texts: Texts,
    measuring: Measuring,
    scratch: Path,
) -> Analysis | None:
    data, report, export = scratch / "inputs.json", scratch / "report.csv", scratch / "export.json"
    seed = f"{measuring.seed}/{concurrency}"  # prompts that no other level had
    data.write_text(inputs(subject.deployed, subject.ask, texts, seed), "utf-8")
    command = [
        *(str(analyzer.program), "-m", subject.deployed.model, "-x", str(subject.deployed.version)),
        *("-i", "grpc", "-u", subject.address, "--async", "--input-data", str(data)),
        *("--concurrency-range", str(concurrency), "-f", str(report)),
        *("--measurement-interval", str(round(1000 * measuring.window))),
        *("--stability-percentage", f"{measuring.stability:g}", "--max-trials", str(measuring.trials)),
    ]
    streamed = subject.deployed.kind is Kind.LM
    if streamed:
        command += ["--streaming", "--profile-export-file", str(export)]
    ended = _ended(command, analyzer, measuring)
    if UNSTABLE in ended.stdout:
        return None
    if ended.returncode or not report.exists():
        raise AnalyzerError(f"perf_analyzer on {subject.deployed.label}: {_reason(ended)}")
    return read_analysis(report.read_text("utf-8"), export.read_text("utf-8") if streamed else None)


def _ended(command: list[str], analyzer: Analyzer, measuring: Measuring) -> subprocess.CompletedProcess[str]:
    seconds = 2 * measuring.window * measuring.trials + START_SECONDS
    try:
        return subprocess.run(
            command, env=analyzer.environment, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise AnalyzerError(f"perf_analyzer had not ended after {seconds:.0f} s") from error


def _reason(ended: subprocess.CompletedProcess[str]) -> str:
    """The last line with a fault."""
    lines = [line.strip() for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
    telling = [line for line in lines if any(fault in line for fault in FAULTS)]
    return (telling or lines or [f"ended with status {ended.returncode}"])[-1]


def _progress_line(level: LevelAnalysis, measuring: Measuring) -> str:
    name = f"{level.deployed.label} at {level.concurrency}"
    if (analysis := level.analysis) is None:
        return f"{name}: not steady in {measuring.trials} windows of {measuring.window:g} s"
    tokens = analysis.tokens_per_second
    line = f"{name}: {analysis.requests_per_second:.1f} requests/s"
    return line if tokens is None else f"{line}, {tokens:.0f} tokens/s"


def inputs(deployed: Deployed, ask: Ask, texts: Texts, seed: str) -> str:
    """The JSON of `--input-data`: ROWS inputs, which perf_analyzer sends again and again."""
    row = _generate if deployed.kind is Kind.LM else _head
    return json.dumps({"data": [row(text, ask) for text in islice(texts.draw(seed), ROWS)]})


def _generate(text: str, ask: Ask) -> dict[str, list[Any]]:
    return {
        LmTensors.TEXT_INPUT: [text],
        LmTensors.STREAM: [True],
        LmTensors.SAMPLING_PARAMETERS: [json.dumps(ask.sampling)],
        LmTensors.EXCLUDE_INPUT_IN_OUTPUT: [True],
        # perf_analyzer exports every output, also one that was not sent, from uninitialized memory. A float
        # read from there may be NaN, and then the whole export is an empty file. This is the only float.
        "return_cumulative_logprob": [True],
    }


def _head(text: str, ask: Ask) -> dict[str, list[Any]]:
    if ask.task is not Task.INFER:
        return {HeadTensors.TEXT: [text]}
    premise, hypothesis = halves(text)
    return {HeadTensors.TEXT: [premise], HeadTensors.TEXT_PAIR: [hypothesis]}
