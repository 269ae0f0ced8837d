"""Our compiled libraries: where they lie, and whether this processor can run them."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

LIBRARY = Path(__file__).resolve().parent / "operators.so"
PRELOAD = LIBRARY.with_name("preload.so")  # is loaded into Triton, for what preload.c says
SCALE_BYTES = 4  # of a head's key or value in the cache: the float32 that one of its whole numbers stands for


SWITCH = "LMAAS_KERNELS"  # environment variable; "off": graphs run in ONNX Runtime's own operators


@functools.cache
def missing() -> str | None:
    """Why graphs run in ONNX Runtime's own operators here; None where ours can be used."""
    if os.environ.get(SWITCH) == "off":
        return f"{SWITCH} is off"
    if not LIBRARY.is_file():
        return f"{LIBRARY.name} was not built: `pip install -e .` builds it"
    try:
        supported = ctypes.CDLL(str(LIBRARY)).lmaas_supported
    except (OSError, AttributeError) as error:
        return f"{LIBRARY.name} cannot be loaded: {error}"
    if not supported():
        return "the processor lacks AVX-512 with VNNI"
    return None
