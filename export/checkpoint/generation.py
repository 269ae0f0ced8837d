"""generation_config.json of a language model: its end of text, its sampling, and notes about the rest."""

from __future__ import annotations

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
    eos_token_id: int | None  # None: no token ends a text
    sampling: dict[str, float] = field(default_factory=dict)  # defaults of requests, by parameter
    notes: tuple[str, ...] = ()  # about what is ignored


def read_generation(folder: Path, eos_token_id: int | None, vocab_size: int) -> Generation:
    """How texts end, and what requests take where they set nothing, as vLLM reads this file.

    transformers generates by this file, so its end of text has precedence over config.json's
    (`eos_token_id`). Of several, only one ends a text here. The notes name the others, and all other values,
    which are ignored. Raises CheckpointError.
    """
    if not is_there(folder / GENERATION_FILE):
        return Generation(eos_token_id)
    data = read_json_object(folder / GENERATION_FILE)
    notes = []
    ends = _ends(data, vocab_size)
    if ends and eos_token_id not in ends:
        notes.append(f"eos_token_id {ends[0]} ends a text, and not {eos_token_id} of config.json")
        eos_token_id = ends[0]
    if len(ends) > 1:
        others = ", ".join(str(token) for token in ends[:_NAMES_SHOWN] if token != eos_token_id)
        notes.append(f"eos_token_id {others}: only {eos_token_id} ends a text here")
    sampling = {name: float(data[name]) for name in MODEL_DEFAULTS if _is_possible(name, data.get(name))}
    if values := [
        f"{name} {value}"[:_SHOWN]
        for name, value in data.items()
        if name not in (*_SILENT, *sampling) and value is not None and (name, value) != _SAMPLES
    ]:
        more = f" and {len(values) - _NAMES_SHOWN} more" if len(values) > _NAMES_SHOWN else ""
        shown = ", ".join(values[:_NAMES_SHOWN]) + more
        notes.append(f"{shown}: not taken over; a request brings its own")
    return Generation(eos_token_id, sampling, tuple(f"{GENERATION_FILE}: {note}" for note in notes))


def _is_possible(name: str, value: Any) -> bool:
    """Whether a request could set it."""
    parameter = PARAMETERS[name]
    is_number = type(value) is int or (type(value) is float and parameter.type is float)
    return is_number and value in parameter.range


def _ends(data: dict[str, Any], vocab_size: int) -> list[int]:
    """The tokens that end a text, in the order of the file."""
    value = data.get("eos_token_id")
    if value is None:
        return []
    ends = list(dict.fromkeys(value)) if _is_list_of_numbers(value) else [value]
    if not all(type(token) is int and 0 <= token < vocab_size for token in ends):
        needed = f"a whole number from 0 to {vocab_size - 1}, or a list of them, is needed"
        raise CheckpointError(
            f"{GENERATION_FILE}: eos_token_id: {str(value)[:80]!r}: {needed}", field=GENERATION_FILE
        )
    return ends


def _is_list_of_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)
