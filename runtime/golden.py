"""Proof of a build: the golden prompts of the manifest are answered again before anybody is served.

Each variant is held to what itself answered when it was exported; how far that was from fp32 stands in its
quality card. A corrupt file, a wrong provider or a defective build is off by far more than the tolerances.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from runtime.answers import Answer, Generated, TokenRecord
from runtime.contract import Fault, GoldenAnswer, GoldenPrompt, Variant
from runtime.errors import ModelError
from runtime.request import Request
from runtime.sampling import SamplingParameters

if TYPE_CHECKING:
    from runtime.engine import Engine

# How far a log-probability may lie from the exporter's, in nats: processors round differently, and what is
# rounded to few steps moves by whole ones. fp16 is exported on a CPU and answers on a GPU.
TOLERANCE = {Variant.FP32: 0.01, Variant.FP16: 0.1, Variant.INT8: 0.1, Variant.INT4: 0.1}
LISTED = 5  # likeliest tokens among which the exporter's must be
_TIMEOUT_SECONDS = 60.0


def check_golden(engine: Engine) -> None:
    """Raise ModelError where the engine does not give the answers that the exporter saw."""
    variant = engine.config.variant
    for prompt, expected in zip(
        engine.manifest.golden, engine.manifest.variants[variant].golden, strict=True
    ):
        answer = _GoldenAnswer(prompt, expected)
        engine.submit(answer.request("golden"), answer)
        answer.check(variant)


class _GoldenAnswer:
    """The sink of one golden prompt. One is asked at a time, so that the smallest queue has room for it."""

    def __init__(self, prompt: GoldenPrompt, expected: GoldenAnswer) -> None:
        self._prompt = prompt
        self._expected = expected
        self._over = threading.Event()
        self._records: list[TokenRecord] = []
        self._fault: Fault | None = None

    def request(self, request_id: str) -> Request:
        parameters = SamplingParameters(
            max_tokens=len(self._expected.token_ids), temperature=0.0, logprobs=LISTED, ignore_eos=True
        )
        return Request(request_id, self._prompt.text, parameters=parameters)

    def send(self, answer: Answer, *, final: bool) -> None:
        if isinstance(answer, Generated):
            self._records = answer.choices[0].logprobs or []
        self._over.set()

    def fail(self, fault: Fault) -> None:
        self._fault = fault
        self._over.set()

    def check(self, variant: Variant) -> None:
        """Token by token; what follows a tie that fell the other way is another text and says nothing."""
        where = f"{variant.value}: golden prompt {self._prompt.text!r}"
        if not self._over.wait(_TIMEOUT_SECONDS):
            raise ModelError(f"{where}: no answer in {_TIMEOUT_SECONDS:.0f} s")
        if self._fault is not None:
            raise ModelError(f"{where}: {self._fault.encode()}")
        allowed = TOLERANCE[variant]
        expected = zip(self._expected.token_ids, self._expected.logprobs, strict=True)
        for place, ((token, logprob), record) in enumerate(
            zip(expected, self._records, strict=True), start=1
        ):
            step = f"{where}: token {place} of {len(self._records)}"
            found = _logprob_of(token, record)
            if found is None:
                raise ModelError(f"{step} is {record.token_id}, but the exporter saw {token}")
            if abs(found - logprob) > allowed:
                raise ModelError(
                    f"{step} has the log-probability {found:.4f}, but the exporter saw {logprob:.4f}, "
                    f"and at most {allowed} lies between them"
                )
            if record.token_id != token:
                return


def _logprob_of(token: int, record: TokenRecord) -> float | None:
    """None where the token is not among the likeliest."""
    if record.token_id == token:
        return record.logprob
    return next((item.logprob for item in record.top if item.token_id == token), None)
