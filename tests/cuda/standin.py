"""A CUDA that computes nothing, built from `native` and loaded into this process; what was asked of it.

It needs the headers of CUDA, which `make test-cuda` puts into the environment of these tests.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

NATIVE = Path(__file__).resolve().parent / "native"
INCLUDE = Path(sys.prefix) / "headers" / "nvidia" / "cu13" / "include"
RUNTIME = "libcudart.so.13"
# The provider loads them too; all their functions are in RUNTIME.
EMPTY = ("libcuda.so.1", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10")
QUIET = ("-Wno-unused-parameter", "-Wno-strict-prototypes")
SHARED = ("-O1", "-Wall", "-Wextra", "-Werror", *QUIET, "-fPIC", "-shared", "-fvisibility=hidden")


@dataclass(frozen=True, slots=True)
class Event:
    """One call: a kernel, product, fill, copy, wait, malloc, capture, graph or device."""

    captured: bool
    kind: str
    detail: str


class Trace(list[Event]):
    @classmethod
    def parse(cls, text: str) -> Trace:
        fields = (line.split(" ", 2) for line in text.splitlines())
        return cls(Event(captured == "1", kind, detail) for captured, kind, detail in fields)

    def of(self, kind: str, part: str = "") -> Trace:
        """Those of a kind whose detail has `part` in it."""
        return Trace(event for event in self if event.kind == kind and part in event.detail)

    @property
    def captures(self) -> list[Trace]:
        """What each capture recorded."""
        ends = [place for place, event in enumerate(self) if event.kind == "capture"]
        pairs = zip(ends[::2], ends[1::2], strict=True)
        return [Trace(self[begin + 1 : end]) for begin, end in pairs]

    @property
    def counts(self) -> Counter[str]:
        return Counter(event.kind for event in self)

    @property
    def num_nodes(self) -> int:
        """Of a CUDA graph that holds these; cuBLAS may make two of a product."""
        counts = self.counts
        return counts["kernel"] + counts["product"] + counts["fill"] + counts["copy"]


class StandIn:
    """The libraries, in `folder`, and the trace of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sources = sorted(map(str, NATIVE.glob("*.c")))
        _link(folder / RUNTIME, f"-I{INCLUDE}", *sources)
        for name in EMPTY:
            _link(
                folder / name,
                "-x",
                "c",
                os.devnull,
                "-x",
                "none",
                "-Wl,--no-as-needed",
                str(folder / RUNTIME),
            )

    def load(self) -> None:
        """Into this process; libraries that are loaded later find them by their names."""
        loaded = [ctypes.CDLL(str(self.folder / name)) for name in (RUNTIME, *EMPTY)]
        self._forget = loaded[0].stand_forget
        self._trace = loaded[0].stand_trace
        self._trace.restype = ctypes.c_char_p

    def take(self) -> Trace:
        """What was asked since the last call."""
        trace = Trace.parse(self._trace().decode())
        self._forget()
        return trace


def _link(library: Path, *arguments: str) -> None:
    command = ["gcc", *SHARED, f"-Wl,-soname,{library.name}", *arguments, "-o", str(library)]
    subprocess.run(command, check=True)
