"""How one version is run: `engine.json`, written beside the manifest by whoever deploys it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.contract import ENGINE_FILE, Variant
from runtime.errors import ModelError


@dataclass(frozen=True, slots=True)
class EngineConfig:
    variant: Variant
    num_slots: int = 32  # sequences that run at once
    max_kv_tokens: int = 0  # of all sequences in slots together, at their longest; 0: slots times context
    max_queued: int = 256  # requests that wait for a slot
    max_queued_tokens: int = 131_072  # prompt tokens of all waiting sequences together
    prefill_chunk: int = 128  # prompt tokens between two decode steps of the running sequences
    threads: int = 2  # of ONNX Runtime, for this model alone
    step_timeout_seconds: int = 60  # a step that takes longer never returns

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, least = getattr(self, item.name), 0 if item.name == "max_kv_tokens" else 1
            if item.name != "variant" and (type(value) is not int or value < least):
                needed = f"a whole number >= {least} is needed"
                raise ModelError(f"{ENGINE_FILE}: {item.name}: {needed}, not {value!r}")

    @classmethod
    def load(cls, folder: Path) -> EngineConfig:
        """Read `engine.json` of a version folder; an unknown key is an error."""
        try:
            data = json.loads((folder / ENGINE_FILE).read_bytes())
        except (OSError, ValueError) as error:
            raise ModelError(f"{ENGINE_FILE}: unreadable ({error})") from None
        if not isinstance(data, dict):
            raise ModelError(f"{ENGINE_FILE}: an object is needed, not {type(data).__name__}")
        return cls.from_mapping(data)

    @classmethod
    def from_mapping(cls, data: dict[str, Any]) -> EngineConfig:
        known = [item.name for item in dataclasses.fields(cls)]
        for name in data:
            if name not in known:
                raise ModelError(f"{ENGINE_FILE}: {name}: unknown key; known are {', '.join(known)}")
        choices = [variant.value for variant in Variant]
        if data.get("variant") not in choices:
            raise ModelError(
                f"{ENGINE_FILE}: variant: {data.get('variant')!r} is not one of {', '.join(choices)}"
            )
        return cls(**{**data, "variant": Variant(data["variant"])})
