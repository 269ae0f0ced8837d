"""A fresh process that cannot load what it is given says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.stack.start import fresh_process
from perf.errors import LoadError


def test_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"manifest\.json"):
        fresh_process(tmp_path)
