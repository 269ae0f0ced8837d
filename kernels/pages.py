"""Memory of mapped files whose contents were copied: operators keep weights in an order of their own."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

_SMAPS = Path("/proc/self/smaps")
_DONT_NEED = 4  # MADV_DONTNEED
# 7f6f2bbbc000-7f6f2bdfc000 rw-p 07752000 fe:00 2156947                    /a/file
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ *(.*)")


def give_back(files: Collection[Path]) -> None:
    """Let go of what is resident of mappings of `files`, but for mappings that were written to.

    An access to such a page reads it from the file again. No other thread may unmap these files meanwhile.
    """
    names = {os.path.realpath(file) for file in files}
    libc = ctypes.CDLL(None)
    with suppress(OSError):  # where the system lists no mappings, the pages stay
        for start, end in list(_unwritten(names)):
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONT_NEED)


def _unwritten(names: Collection[str]) -> Iterator[tuple[int, int]]:
    """Start and end of each mapping of these files without a page of its own (proc_pid_smaps(5))."""
    start = end = 0
    name = ""
    for line in _SMAPS.read_text("utf-8", "surrogateescape").splitlines():
        if found := _MAPPING.fullmatch(line):
            start, end, name = int(found[1], 16), int(found[2], 16), found[3]
        elif name in names and line.startswith("Anonymous:") and line.split()[1] == "0":
            yield start, end
