"""Receipts: from what an answer was made, so that it can be made again and compared to the last bit.

`lmaas replay` (cli/replay.py) does that. Standard library only.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from runtime.contract import FinishReason

# Where the same request gets the same bits.
ExactOn = Literal["any-processor", "same-processor", "not-promised"]


def release() -> str:
    """Of LMaaS."""
    try:
        return version("lmaas")
    except PackageNotFoundError:
        return "not installed"


def _help(text: str) -> dict[str, str]:
    """Metadata of a field that has this text in the OpenAPI document."""
    return {"description": text}


class LogprobDigest:
    """SHA-256 over the log-probabilities of the tokens of one text, each as a little-endian float64."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, logprob: float) -> None:
        self._digest.update(struct.pack("<d", logprob))

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


@dataclass(frozen=True, slots=True)
class ReceiptChoice:
    """One generated text, as the request has it before an echo of its prompt."""

    index: int = field(metadata=_help("Of the choices of this prompt."))
    token_ids: list[int]
    logprobs_sha256: str = field(
        metadata=_help(
            "SHA-256 over the log-probabilities of these tokens, each a little-endian float64: the "
            "log-softmax of the model's logits, before biases, penalties and temperature."
        )
    )
    finish_reason: FinishReason | None

    def to_json(self) -> dict[str, Any]:
        reason = None if self.finish_reason is None else self.finish_reason.value
        return {
            "index": self.index,
            "token_ids": self.token_ids,
            "logprobs_sha256": self.logprobs_sha256,
            "finish_reason": reason,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ReceiptChoice:
        reason = data["finish_reason"]
        return cls(
            data["index"],
            data["token_ids"],
            data["logprobs_sha256"],
            None if reason is None else FinishReason(reason),
        )


@dataclass(frozen=True, slots=True)
class Receipt:
    """Of the answer to one prompt."""

    release: str = field(metadata=_help("Of LMaaS, on the model server."))
    artifact: str = field(
        metadata=_help(
            "sha256: over what decides the answer: architecture, tokenizer and files of the variant."
        )
    )
    variant: str = field(metadata=_help("The precision: fp32, fp16, int8 or int4."))
    kernels: str = field(
        metadata=_help(
            "What computed it: the level of our operators, or ONNX Runtime or TensorRT with its release."
        )
    )
    exact_on: ExactOn = field(
        metadata=_help(
            "any-processor: the same bits on every x86-64 processor with AVX2, at every level of operators. "
            "same-processor: on processors with the same instructions, and with the same ONNX Runtime. "
            "not-promised: the last bits depend on what else runs."
        )
    )
    prompt_token_ids: list[int] = field(default_factory=list)
    parameters: dict[str, Any] = field(
        default_factory=dict,
        metadata=_help("All that decide the text, as they were in effect; a seed was drawn if none came."),
    )
    choices: list[ReceiptChoice] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        named = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**named, "choices": [choice.to_json() for choice in self.choices]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Receipt:
        named = {item.name: data[item.name] for item in fields(cls)}
        return cls(**{**named, "choices": [ReceiptChoice.from_json(choice) for choice in data["choices"]]})
