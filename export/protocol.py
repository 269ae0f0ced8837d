"""The standard output of a process whose parent reads it line by line."""

from __future__ import annotations

import os
import sys
from typing import TextIO

_OUTPUT, _ERROR = 1, 2  # descriptors


def own_standard_output() -> TextIO:
    """Redirect standard output to standard error; returns a stream to the original standard output.

    Libraries print to standard output, also from C code, and the parent would read that as an answer.
    """
    sys.stdout.flush()
    stream = os.fdopen(os.dup(_OUTPUT), "w", encoding="utf-8")
    os.dup2(_ERROR, _OUTPUT)
    return stream
