"""How one version is run: `engine.json`, written beside the manifest by whoever deploys it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from kernels.accelerator import Accelerator
from runtime.contract import ENGINE_FILE, Device, Variant
from runtime.errors import ModelError

Choice = TypeVar("Choice", bound=Enum)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    variant: Variant
    device: Device = Device.CPU
    tensorrt_cache: str = ""  # folder of TensorRT's engines; empty: without TensorRT
    num_slots: int = 32  # sequences that run at once
    max_kv_tokens: int = 0  # of all sequences in slots together, at their longest; 0: slots times context
    max_queued: int = 256  # requests that wait for a slot
    max_queued_tokens: int = 131_072  # prompt tokens of all waiting sequences together
    prefill_chunk: int = 128  # prompt tokens between two decode steps, at most
    threads: int = 2  # of ONNX Runtime, for this model alone
    step_timeout_seconds: int = 60  # a step that takes longer never returns

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, least = getattr(self, item.name), 0 if item.name == "max_kv_tokens" else 1
            if item.type == "int" and (type(value) is not int or value < least):
                needed = f"a whole number >= {least} is needed"
                raise ModelError(f"{ENGINE_FILE}: {item.name}: {needed}, not {value!r}")
        if type(self.tensorrt_cache) is not str or (self.tensorrt_cache and self.device is Device.CPU):
            raise ModelError(f"{ENGINE_FILE}: tensorrt_cache: a folder, with device cuda only")
        if self.device is Device.CUDA and self.variant is not Variant.FP16:
            raise ModelError(f"{ENGINE_FILE}: variant: {self.variant.value}, but device cuda runs fp16 alone")

    @property
    def accelerator(self) -> Accelerator | None:
        return Accelerator(self.tensorrt_cache) if self.device is Device.CUDA else None

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
        variant = _member(Variant, "variant", data.get("variant"))
        device = _member(Device, "device", data.get("device", Device.CPU.value))
        return cls(**{**data, "variant": variant, "device": device})


def _member(kind: type[Choice], name: str, value: Any) -> Choice:
    choices = [member.value for member in kind]
    if value not in choices:
        raise ModelError(f"{ENGINE_FILE}: {name}: {value!r} is not one of {', '.join(choices)}")
    return kind(value)
