"""generation_config.json of a language model: its ends of text, its sampling, and notes about the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.errors import CheckpointError
from export.reading import is_there, read_json_object
from runtime.parameters import MODEL_DEFAULTS, PARAMETERS

GENERATION_FILE = "generation_config.json"
# Keys that change no text, or that are read here or from config.json.
_SILENT = (
    *("_from_model_config", "transformers_version", "use_cache", "return_dict_in_generate"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
)
# What requests do here without being asked; transformers is greedy without it.
_SAMPLES = ("do_sample", True)
_NAMES_SHOWN = 8
_SHOWN = 60  # characters of a name with its value in a note


@dataclass(frozen=True, slots=True)
class Generation:
    ends: tuple[int, ...]  # the tokens that end a text; the first also begins one
    sampling: dict[str, float] = field(default_factory=dict)  # defaults of requests, by parameter
    notes: tuple[str, ...] = ()  # about what is ignored


def read_generation(folder: Path, ends: Sequence[int], vocab_size: int) -> Generation:
    """How texts end, and what requests take where they set nothing, as vLLM reads this file.

    `ends` are the tokens of config.json that end a text; the first also begins one. Those of this file
    are added. The notes name all other values, which are ignored. Raises CheckpointError.
    """
    if not is_there(folder / GENERATION_FILE):
        return Generation(tuple(ends))
    data = read_json_object(folder / GENERATION_FILE)
    more = token_ids(data.get("eos_token_id"), GENERATION_FILE, "eos_token_id", vocab_size)
    sampling = {name: float(data[name]) for name in MODEL_DEFAULTS if _is_possible(name, data.get(name))}
    notes: tuple[str, ...] = ()
    if values := [
        f"{name} {value}"[:_SHOWN]
        for name, value in data.items()
        if name not in (*_SILENT, *sampling) and value is not None and (name, value) != _SAMPLES
    ]:
        others = f" and {len(values) - _NAMES_SHOWN} more" if len(values) > _NAMES_SHOWN else ""
        shown = ", ".join(values[:_NAMES_SHOWN]) + others
        notes = (f"{GENERATION_FILE}: {shown}: not taken over; a request brings its own",)
    return Generation(tuple(dict.fromkeys((*ends, *more))), sampling, notes)


def _is_possible(name: str, value: Any) -> bool:
    """Whether a request could set it."""
    parameter = PARAMETERS[name]
    is_number = type(value) is int or (type(value) is float and parameter.type is float)
    return is_number and value in parameter.range


def token_ids(value: Any, file: str, key: str, vocab_size: int) -> list[int]:
    """The ids under `key` of `file`: one, or several in a list; none for null. Raises CheckpointError."""
    given = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token) is int and 0 <= token < vocab_size for token in given):
        needed = f"a whole number from 0 to {vocab_size - 1}, or a list of them, is needed"
        field = key if file != GENERATION_FILE else file
        raise CheckpointError(f"{file}: {key}: {str(value)[:80]!r}: {needed}", field=field)
    return list(dict.fromkeys(given))
