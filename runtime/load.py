"""Opening a version folder: an engine that serves it, once its golden prompts were answered as expected.

Each variant is compared with what it answered when it was exported. How far that is from fp32 stands in its
quality card. A corrupt file, a wrong provider or a defective build is off by far more than the tolerances.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from runtime.config import EngineConfig
from runtime.contract import ENGINE_FILE, TOKENIZER_FILE, Fault, Kind, Variant
from runtime.cuda.accelerator import Accelerator, AcceleratorError, accelerator_of
from runtime.cuda.plan import PlanError, PlanLimits
from runtime.cuda.plan_session import PlanSession
from runtime.cuda.plans import attempt, find_plan
from runtime.cuda.stream import CudaError
from runtime.engine import Engine
from runtime.errors import ModelError, RequestFault
from runtime.golden_rules import LISTED, token_problem
from runtime.manifest import MANIFEST_FILE, GoldenAnswer, GoldenPrompt, Manifest, ManifestError
from runtime.messages import Answer, Generated, TokenLogprob
from runtime.request import Request
from runtime.sampling import SamplingParameters
from runtime.session import LmSession
from runtime.text import Tokenizer

logger = logging.getLogger(__name__)

_GOLDEN_SECONDS = 60.0  # for one golden prompt


def load_engine(
    folder: Path,
    on_stall: Callable[[], None] = lambda: None,
    on_delivered: Callable[[], None] = lambda: None,
    *,
    config: EngineConfig | None = None,
) -> Engine:
    """Raises ModelError if the folder cannot be served. The callbacks are those of `Engine`.

    Without a `config` the folder has one as ENGINE_FILE. `Engine.fallback` says whether a plan computes.
    """
    try:
        manifest = Manifest.load(folder)
    except (OSError, ManifestError) as error:
        raise ModelError(f"{MANIFEST_FILE}: {error}") from None
    config = config or EngineConfig.load(folder)
    _check(manifest, config)
    accelerator = accelerator_of(config)
    open_engine = partial(_open, folder, manifest, config, accelerator, on_stall, on_delivered)
    if accelerator is None or not config.plans:
        return open_engine(None)
    try:
        plan = _find_plan(folder, manifest, config, accelerator)
        with attempt(plan):
            engine = open_engine(plan)
        engine.fallback = ""
        return engine
    except (AcceleratorError, CudaError, ModelError, PlanError) as error:
        reason = str(error)
    logger.warning("%s: ONNX Runtime computes, not TensorRT: %s", manifest.name, reason)
    gc.collect()  # the plan's memory, before there is that of ONNX Runtime
    engine = open_engine(None)
    engine.fallback = reason
    return engine


def _open(
    folder: Path,
    manifest: Manifest,
    config: EngineConfig,
    accelerator: Accelerator | None,
    on_stall: Callable[[], None],
    on_delivered: Callable[[], None],
    plan: Path | None,
) -> Engine:
    """With a plan of TensorRT, or without. Raises ModelError, and for a plan what `PlanSession` raises."""
    graph = folder / manifest.variants[config.variant].graph.path
    opened = PlanSession(plan, accelerator.stream) if plan and accelerator else None
    session = LmSession(graph, config.threads, accelerator, opened)
    tokenizer = Tokenizer(folder / TOKENIZER_FILE, manifest.architecture.eos_token_id)
    engine = Engine(manifest, config, session, tokenizer, on_stall, on_delivered)
    try:
        _check_golden(engine)
    except (ModelError, RequestFault) as error:
        engine.close()
        raise ModelError(f"{manifest.name}: {error}") from None
    return engine


def _find_plan(folder: Path, manifest: Manifest, config: EngineConfig, accelerator: Accelerator) -> Path:
    """Raises AcceleratorError, CudaError, PlanError."""
    accelerator.check()
    graph = folder / manifest.variants[config.variant].graph.path
    context = manifest.architecture.context_length
    limits = PlanLimits(config.num_slots, min(config.most_prompt_tokens, context), context)
    return find_plan(Path(config.plans), graph, manifest.digest(config.variant), limits)


def _check(manifest: Manifest, config: EngineConfig) -> None:
    """Raise ModelError unless the configuration fits the model."""
    if manifest.kind is not Kind.LM:
        raise ModelError(f"manifest.kind: {manifest.kind.value}, but the engine runs {Kind.LM.value}")
    if config.variant not in manifest.variants:
        known = ", ".join(item.value for item in manifest.variants)
        raise ModelError(f"{MANIFEST_FILE}: variant {config.variant.value} is not among {known}")
    context_length = manifest.architecture.context_length
    if config.max_queued_tokens < context_length:
        raise ModelError(
            f"{ENGINE_FILE}: max_queued_tokens: {config.max_queued_tokens} is less than one context of "
            f"{context_length} tokens"
        )


def _check_golden(engine: Engine) -> None:
    """Raise ModelError unless the engine gives the answers that the exporter saw."""
    variant = engine.config.variant
    for prompt, expected in zip(
        engine.manifest.golden, engine.manifest.variants[variant].golden, strict=True
    ):
        answer = _GoldenAnswer(prompt, expected)
        engine.submit(answer.request("golden"), answer)
        answer.check(variant)


class _GoldenAnswer:
    """The sink of one golden prompt. They are asked one at a time, so that the smallest queue has room."""

    def __init__(self, prompt: GoldenPrompt, expected: GoldenAnswer) -> None:
        self._prompt = prompt
        self._expected = expected
        self._over = threading.Event()
        self._records: list[TokenLogprob] = []
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
        """Token by token, up to a near tie that was decided differently: the rest is another text."""
        where = f"{variant.value}: golden prompt {self._prompt.text!r}"
        if not self._over.wait(_GOLDEN_SECONDS):
            raise ModelError(f"{where}: no answer in {_GOLDEN_SECONDS:.0f} s")
        if self._fault is not None:
            raise ModelError(f"{where}: {self._fault.encode()}")
        expected = zip(self._expected.token_ids, self._expected.logprobs, strict=True)
        for place, ((token, logprob), record) in enumerate(
            zip(expected, self._records, strict=True), start=1
        ):
            found = _logprob_of(token, record)
            problem = token_problem(variant, token, logprob, chosen=record.token_id, found=found)
            if problem is not None:
                raise ModelError(f"{where}: token {place} of {len(self._records)} {problem}")
            if record.token_id != token:
                return


def _logprob_of(token: int, record: TokenLogprob) -> float | None:
    """None if the token is not among the likeliest."""
    if record.token_id == token:
        return record.logprob
    return next((item.logprob for item in record.top if item.token_id == token), None)
