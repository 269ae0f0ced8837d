"""Why a measurement ends without a result; each message is one line for the user.

PerfError
├── PlanError          the options describe nothing that can be measured
├── LoadError          requests failed, and the figure needs all of them
└── AnalyzerError      perf_analyzer cannot be installed, or ended without a measurement
"""

from __future__ import annotations


class PerfError(Exception):
    pass


class PlanError(PerfError):
    """The message names the option."""


class LoadError(PerfError):
    """The message has their number and the reasons."""


class AnalyzerError(PerfError):
    pass
