"""The errors of the tokenizers library, as errors of the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from export.errors import CheckpointError


@contextmanager
def complaints(file: str, what: str = "") -> Iterator[None]:
    """Turn the library's errors into CheckpointError: bare Exceptions, and panics of its Rust code."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        complaint = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file}: {what}{complaint}", field=file) from None
