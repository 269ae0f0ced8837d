"""Proof of a build: the golden prompts of the manifest are generated again before anybody is served."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from runtime.answers import Answer, Generated, TokenRecord
from runtime.contract import Fault, GoldenPrompt, Variant
from runtime.errors import ModelError
from runtime.request import Request
from runtime.sampling import SamplingParameters

if TYPE_CHECKING:
    from runtime.engine import Engine

# Another processor may round a near tie the other way: a golden token counts as reproduced where it is the
# choice or as likely as the choice within this, in nats.
TIE_TOLERANCE = 0.01
# Quantized weights may prefer another token; what is left must still clearly be the same model.
LEAST_AGREEMENT = 0.5
_TIMEOUT_SECONDS = 60.0


def check_golden(engine: Engine) -> None:
    """Raise ModelError where the engine does not reproduce the fp32 answers, exactly (fp32) or roughly."""
    golden = [prompt for prompt in engine.manifest.golden if prompt.token_ids]
    if not golden:
        return
    agreed = [_replay(engine, prompt) for prompt in golden]
    variant = engine.config.variant
    if variant is Variant.FP32:
        for prompt, count in zip(golden, agreed, strict=True):
            if count < len(prompt.token_ids):
                raise ModelError(
                    f"{variant.value}: golden prompt {prompt.text!r}: token {count + 1} of "
                    f"{len(prompt.token_ids)} is not the one that the exporter's reference gave"
                )
        return
    card = engine.manifest.variants[variant].quality or {}
    needed = LEAST_AGREEMENT * card.get("top1_agreement", 1.0)
    share = sum(count > 0 for count in agreed) / len(golden)
    if share < needed:
        raise ModelError(
            f"{variant.value}: {share:.0%} of the golden prompts go on as in fp32, but {needed:.0%} must"
        )


def _replay(engine: Engine, prompt: GoldenPrompt) -> int:
    """Leading tokens that agree. One prompt at a time, so that the smallest queue has room for it."""
    answer = _GoldenAnswer(prompt)
    engine.submit(answer.request("golden"), answer)
    return answer.agrees_for()


class _GoldenAnswer:
    """The sink of one golden prompt."""

    def __init__(self, prompt: GoldenPrompt) -> None:
        self._prompt = prompt
        self._over = threading.Event()
        self._records: list[TokenRecord] = []
        self._fault: Fault | None = None

    def request(self, request_id: str) -> Request:
        parameters = SamplingParameters(
            max_tokens=len(self._prompt.token_ids), temperature=0.0, logprobs=2, ignore_eos=True
        )
        return Request(request_id, self._prompt.text, parameters=parameters)

    def send(self, answer: Answer, *, final: bool) -> None:
        if isinstance(answer, Generated):
            self._records = answer.choices[0].logprobs or []
        self._over.set()

    def fail(self, fault: Fault) -> None:
        self._fault = fault
        self._over.set()

    def agrees_for(self) -> int:
        """Leading tokens that agree; all of them where the first difference is a tie."""
        if not self._over.wait(_TIMEOUT_SECONDS):
            raise ModelError(f"golden prompt {self._prompt.text!r}: no answer in {_TIMEOUT_SECONDS:.0f} s")
        if self._fault is not None:
            raise ModelError(f"golden prompt {self._prompt.text!r}: {self._fault.encode()}")
        for place, (expected, record) in enumerate(zip(self._prompt.token_ids, self._records, strict=True)):
            if record.token_id != expected:
                return len(self._records) if _is_tie(expected, record) else place
        return len(self._records)


def _is_tie(expected: int, record: TokenRecord) -> bool:
    likely = {item.token_id: item.logprob for item in record.top}
    found, chosen = likely.get(expected), record.logprob
    return found is not None and chosen is not None and chosen - found <= TIE_TOLERANCE
