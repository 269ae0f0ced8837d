"""Kinds `classifier` and `nlu`: Triton's dynamic batcher gathers requests, one run answers all."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from runtime.config import EngineConfig
from runtime.contract import Fault, FaultCode, HeadTensors
from runtime.cuda.accelerator import accelerator_of
from runtime.errors import RequestFault
from runtime.heads import HeadAnswer, HeadInput, HeadModel
from runtime.messages import Slot
from runtime.triton.inputs import decoded, require
from runtime.triton.metrics import HeadMetrics
from runtime.triton.outputs import error_response

logger = logging.getLogger(__name__)

Rows = list[HeadInput | RequestFault]  # of one request


class HeadAdapter:
    def __init__(self, folder: Path, labels: dict[str, str]) -> None:
        config = EngineConfig.load(folder)
        self._model = HeadModel.load(folder, config.variant, config.threads, accelerator_of(config))
        self._metrics = HeadMetrics(labels)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request; where one row of a request fails, the request does."""
        read = [_read(request) for request in requests]
        try:
            return self._answer(read)
        except Exception:
            logger.exception("a batch of %d requests failed; each is tried alone", len(read))
            return [self._answer_alone(rows) for rows in read]

    def _answer(self, read: list[Rows]) -> list[Any]:
        """With all texts of these requests together."""
        inputs = [item for rows in read for item in rows if isinstance(item, HeadInput)]
        answers = iter(self._model.run(inputs, self._metrics.count_run) if inputs else [])
        return [
            _response([next(answers) if isinstance(item, HeadInput) else item for item in rows])
            for rows in read
        ]

    def _answer_alone(self, rows: Rows) -> Any:
        try:
            return self._answer([rows])[0]
        except Exception:
            logger.exception("a request of %d texts failed", len(rows))
            fault = Fault(FaultCode.INTERNAL, "the model could not be run; the server's log says why")
            return error_response(fault)

    def finalize(self) -> None:
        """Triton has had every answer already: `execute` returns them."""


def _read(request: Any) -> Rows:
    """Row by row; where the request as a whole cannot be read, its fault alone."""
    try:
        texts = _values(
            require(pb_utils.get_input_tensor_by_name(request, HeadTensors.TEXT), HeadTensors.TEXT)
        )
        pair = pb_utils.get_input_tensor_by_name(request, HeadTensors.TEXT_PAIR)
        pairs = [None] * len(texts) if pair is None else _values(pair)
        given = pb_utils.get_input_tensor_by_name(request, HeadTensors.TEMPERATURE)
        temperatures = [1.0] * len(texts) if given is None else _values(given)
        given = pb_utils.get_input_tensor_by_name(request, HeadTensors.SPECIAL_TOKENS)
        special = [True] * len(texts) if given is None else _values(given)
        return [_read_row(*row) for row in zip(texts, pairs, temperatures, special, strict=True)]
    except RequestFault as fault:
        return [fault]
    except Exception:
        logger.exception("a request could not be read")
        return [RequestFault.of(FaultCode.INTERNAL, "the request could not be read")]


def _values(tensor: Any) -> list[Any]:
    """The rows of a tensor [batch, 1]."""
    values: list[Any] = tensor.as_numpy().reshape(-1).tolist()
    return values


def _read_row(text: Any, pair: Any, temperature: float, special_tokens: bool) -> HeadInput | RequestFault:
    try:
        return HeadInput(
            decoded(text, HeadTensors.TEXT),
            None if pair is None else decoded(pair, HeadTensors.TEXT_PAIR),
            temperature,
            special_tokens,
        )
    except RequestFault as fault:
        return fault


def _response(answers: list[HeadAnswer | RequestFault]) -> Any:
    for row, answer in enumerate(answers):
        if isinstance(answer, RequestFault):
            return error_response(_located(answer.fault, row if len(answers) > 1 else None))
    good = [answer for answer in answers if isinstance(answer, HeadAnswer)]
    scores = np.stack([answer.scores for answer in good])
    labels = np.array([[answer.label.encode()] for answer in good], np.object_)
    tensors = [pb_utils.Tensor(HeadTensors.SCORES, scores), pb_utils.Tensor(HeadTensors.LABEL, labels)]
    if good[0].slots is not None:
        slots = [[_as_json(answer.slots or []).encode()] for answer in good]
        tensors.append(pb_utils.Tensor(HeadTensors.SLOTS, np.array(slots, np.object_)))
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _as_json(slots: Sequence[Slot]) -> str:
    return json.dumps([slot.to_json() for slot in slots], separators=(",", ":"))


def _located(fault: Fault, row: int | None) -> Fault:
    """The fault with the row that it is about, as HeadTensors says."""
    if row is None or fault.field is None:
        return fault
    return dataclasses.replace(fault, field=f"{fault.field}.{row}")
