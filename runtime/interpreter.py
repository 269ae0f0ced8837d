"""How a model's process starts another one of this package."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def python() -> str:
    """Triton embeds Python: the interpreter is not the process itself there."""
    if Path(sys.executable or "").name.startswith("python"):
        return sys.executable
    return shutil.which("python3") or "python3"


def search_path() -> str:
    """PYTHONPATH with which it imports what this process imports."""
    return os.pathsep.join(filter(None, sys.path))
