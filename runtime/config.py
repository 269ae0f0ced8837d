"""The configuration of an engine, declared once: fields, defaults, limits, help. Standard library only.

The façade builds its engine settings (`LMAAS_NUM_SLOTS` and so on) from `EngineSettings`, and writes an
`EngineConfig` as `engine.json` beside the manifest of each version that it deploys.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from runtime.contract import ENGINE_FILE, Device, Variant
from runtime.errors import ModelError

MOST_THREADS = 4  # where no number is set
Choice = TypeVar("Choice", bound=Enum)
# A run takes a GPU hardly longer than its dispatch takes the host, up to about this number of tokens.
GPU_CHUNK = 512


def _number(default: int, least: int, most: int, help_text: str) -> Any:
    """A field that is a whole number from `least` to `most`."""
    return dataclasses.field(default=default, metadata={"least": least, "most": most, "help": help_text})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What is the same for all models of a server. Raises ModelError if a value is out of its limits."""

    device: Device = Device.CPU
    plans: str = ""  # folder of TensorRT's plans (runtime/cuda/plans.py); empty: ONNX Runtime computes
    num_slots: int = _number(32, 1, 100_000, "Sequences that one language model decodes at once.")
    max_kv_tokens: int = _number(
        0,
        0,
        1_000_000_000,
        "Tokens that one language model's KV cache holds. A request counts with its prompt and its longest "
        "answer, and waits until both fit. 0: as many as the slots have.",
    )
    max_queued: int = _number(256, 1, 100_000, "Requests that wait inside one language model.")
    max_queued_tokens: int = _number(
        131_072, 1, 1_000_000_000, "Prompt tokens that wait inside one language model."
    )
    prefill_chunk: int = _number(
        128,
        1,
        100_000,
        f"Most prompt tokens of one engine step; fewer where sequences decode. A GPU runs up to {GPU_CHUNK}, "
        "or more if this is more.",
    )
    threads: int = _number(
        0,
        0,
        100_000,
        f"Threads of one model's engine. 0: up to {MOST_THREADS}, as the processors that this process may "
        "use (CPU set, quota) go round among the model servers of the machine.",
    )
    step_timeout_seconds: int = _number(
        60, 1, 100_000, "A step of a model that takes longer has hung: the model is started again."
    )

    @property
    def most_prompt_tokens(self) -> int:
        """Of one engine step."""
        return max(GPU_CHUNK, self.prefill_chunk) if self.device is Device.CUDA else self.prefill_chunk

    def __post_init__(self) -> None:
        for item in number_fields():
            value, least, most = getattr(self, item.name), item.metadata["least"], item.metadata["most"]
            if type(value) is not int or not least <= value <= most:
                needed = f"a whole number from {least} to {most} is needed"
                raise ModelError(f"{ENGINE_FILE}: {item.name}: {needed}, not {value!r}")
        if not isinstance(self.plans, str) or (self.plans and self.device is not Device.CUDA):
            raise ModelError(f"{ENGINE_FILE}: plans: a folder, for device cuda alone, not {self.plans!r}")


@dataclass(frozen=True, slots=True)
class EngineConfig(EngineSettings):
    """How one version runs: the settings of its server, and its variant."""

    variant: Variant

    def __post_init__(self) -> None:
        EngineSettings.__post_init__(self)
        if self.device is Device.CUDA and self.variant is not Variant.FP16:
            raise ModelError(f"{ENGINE_FILE}: variant: {self.variant.value}, but device cuda runs fp16 alone")

    @classmethod
    def of(cls, settings: EngineSettings, variant: Variant) -> EngineConfig:
        shared = {item.name: getattr(settings, item.name) for item in dataclasses.fields(EngineSettings)}
        return cls(variant, **shared)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

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
        """Raises ModelError. All keys but `variant` have a default."""
        known = [item.name for item in dataclasses.fields(cls)]
        for name in data:
            if name not in known:
                raise ModelError(f"{ENGINE_FILE}: {name}: unknown key; known are {', '.join(known)}")
        variant = _member(Variant, "variant", data.get("variant"))
        device = _member(Device, "device", data.get("device", Device.CPU.value))
        return cls(**{**data, "variant": variant, "device": device})


def number_fields() -> list[dataclasses.Field[Any]]:
    """The fields of EngineSettings with limits (`least`, `most`) and `help` in their metadata."""
    return [item for item in dataclasses.fields(EngineSettings) if item.metadata]


def _member(kind: type[Choice], name: str, value: Any) -> Choice:
    choices = [member.value for member in kind]
    if value not in choices:
        raise ModelError(f"{ENGINE_FILE}: {name}: {value!r} is not one of {', '.join(choices)}")
    return kind(value)
