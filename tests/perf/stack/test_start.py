"""A fresh process that cannot load what it is given says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from perf.errors import LoadError
from perf.stack.start import fresh_process


def test_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"manifest\.json"):
        fresh_process(tmp_path)
