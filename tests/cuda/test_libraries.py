"""The libraries that ONNX Runtime's provider needs, and the GPU that a process sees."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import onnxruntime
import pytest

from tests.cuda.standin import EMPTY, RUNTIME

pytestmark = pytest.mark.cuda

PROVIDER = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"


def test_the_stand_in_has_every_library_that_the_provider_needs() -> None:
    listed = subprocess.run(["readelf", "-d", PROVIDER], check=True, capture_output=True, text=True).stdout
    needed = re.findall(r"NEEDED.*\[(libcu.*)\]", listed)
    assert sorted(needed) == sorted([RUNTIME, *EMPTY])
