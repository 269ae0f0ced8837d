"""Our compiled libraries: where they lie, and the level at which the operators compute on this processor.

A level is a set of instructions. The operators are compiled for each of LEVELS and give the same answer
on all of them, to the last bit. So whether a graph is fused does not depend on the processor.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

LIBRARY = Path(__file__).resolve().parent / "operators.so"
PRELOAD = LIBRARY.with_name("preload.so")  # is loaded into Triton, for what preload.c says
SCALE_BYTES = 4  # of a head's key or value in the cache: the float32 that one of its whole numbers stands for
# Environment variable: a level; "auto" or empty: the best; "off": graphs run in ONNX Runtime's own operators.
SWITCH = "LMAAS_KERNELS"
AUTO, OFF = "auto", "off"
# The best first, with what a processor needs for it; the last one runs everywhere, slowly.
LEVELS = {
    "avx512vnni": "AVX-512 with VNNI",
    "avxvnni": "AVX-VNNI",
    "avx2": "AVX2 with FMA",
    "reference": "x86-64",
}


class LevelError(ValueError):
    """LMAAS_KERNELS names no level, or one that this processor lacks."""


@functools.cache
def missing() -> str | None:
    """Why graphs run in ONNX Runtime's own operators here; None where ours are used. Raises LevelError."""
    wanted = os.environ.get(SWITCH) or AUTO
    if wanted == OFF:
        return f"{SWITCH} is {OFF}"
    if wanted != AUTO and wanted not in LEVELS:
        raise LevelError(f"{SWITCH} is {wanted}: it can be {AUTO}, {OFF}, {', '.join(LEVELS)}")
    if not LIBRARY.is_file():
        return f"{LIBRARY.name} was not built: `pip install -e .` builds it"
    try:
        found = supported_levels()
    except (OSError, AttributeError) as error:
        return f"{LIBRARY.name} cannot be loaded: {error}"
    if wanted != AUTO and not use_level(wanted):
        raise LevelError(
            f"{SWITCH} is {wanted}, but the processor lacks {LEVELS[wanted]}: it can run {', '.join(found)}"
        )
    return None


def level() -> str | None:
    """The level in use; None where graphs run in ONNX Runtime's own operators. Raises LevelError."""
    if missing() is not None:
        return None
    function = _loaded().lmaas_level
    function.restype = ctypes.c_char_p
    return str(function().decode())


def described_level() -> str:
    """`level`, or the name of what is used instead, for people and reports; never raises."""
    try:
        return level() or "onnxruntime"
    except LevelError:
        return "none"


def supported_levels() -> list[str]:
    """Of this processor, the best first. Raises OSError where the library is not there."""
    return [name for name in LEVELS if _loaded().lmaas_runs(name.encode())]


def use_level(name: str) -> bool:
    """Sessions that are opened from now on compute at this level; False where the processor lacks it."""
    return bool(_loaded().lmaas_use(name.encode()))


def takes_row_tokens() -> bool:
    """Whether rows of one run may differ in their number of tokens: not in a library of older sources."""
    return hasattr(_loaded(), "lmaas_takes_row_tokens")


def has_block_linear() -> bool:
    """Whether there is an operator for weights of four bits: not in a library of older sources."""
    return hasattr(_loaded(), "lmaas_has_block_linear")


@functools.cache
def _loaded() -> ctypes.CDLL:
    return ctypes.CDLL(str(LIBRARY))
