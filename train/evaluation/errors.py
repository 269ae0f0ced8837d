"""Why something cannot be evaluated; the message is one line for the user."""

from __future__ import annotations


class EvaluationError(ValueError):
    pass
