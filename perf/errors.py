"""What ends a measurement, each with a sentence for whoever started it.

PerfError
├── PlanError          what was asked for cannot be run
└── AnalyzerError      perf_analyzer cannot be had, or ended without a measurement
"""

from __future__ import annotations


class PerfError(Exception):
    pass


class PlanError(PerfError):
    """The message names the option."""


class AnalyzerError(PerfError):
    pass
