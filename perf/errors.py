"""What ends a measurement, each with a sentence for whoever started it.

PerfError
├── PlanError          what was asked for cannot be run
├── LoadError          requests failed where a figure needs all of them answered
└── AnalyzerError      perf_analyzer cannot be had, or ended without a measurement
"""

from __future__ import annotations


class PerfError(Exception):
    pass


class PlanError(PerfError):
    """The message names the option."""


class LoadError(PerfError):
    """The message tells how many, and why."""


class AnalyzerError(PerfError):
    pass
