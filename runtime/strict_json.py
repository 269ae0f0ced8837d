"""JSON with one meaning only: what RFC 8259 leaves to the reader is refused, since a guess may be wrong.

That is: an object with the same name twice, NaN and infinities, and lone surrogates, which no other text can
hold. Standard library only, because façade and exporter both import this module.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

SHOWN = 100  # characters of a name or number that a message repeats
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def finite(text: str) -> float:
    """A number that is not beyond the range of a float64."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:SHOWN]} is no finite number")
    return value


def parse(
    text: str,
    *,
    parse_int: Callable[[str], Any] = int,
    parse_float: Callable[[str], Any] = finite,
    max_members: int | None = None,
) -> Any:
    """Parse one JSON value; an object may have `max_members` members.

    Raises ValueError (json.JSONDecodeError, which is a subclass, for what is not JSON) and RecursionError.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if max_members is not None and len(pairs) > max_members:
            raise ValueError(f"an object of {len(pairs)} members, but at most {max_members} are read")
        found = dict(pairs)
        if len(found) != len(pairs):
            ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
            raise ValueError(f"the name {name[:SHOWN]!r} comes twice in one object")
        return found

    value = json.loads(
        text, object_pairs_hook=unique, parse_int=parse_int, parse_float=parse_float, parse_constant=finite
    )
    if _SURROGATE.search(text):
        _refuse_surrogates(value)
    return value


def _refuse_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise ValueError(f"a string holds \\u{code:04x}, a lone surrogate, which is not text") from None
