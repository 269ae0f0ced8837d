"""Inputs for perf_analyzer name the tensors of the backend."""

from __future__ import annotations

import json
from typing import Any

import pytest

from perf.deployed import Deployed
from perf.http.ask import Ask, Task
from perf.http.prompts import Texts
from perf.triton.inputs import ROWS, inputs
from runtime.contract import HeadTensors, Kind, LmTensors


def rows(kind: Kind, task: Task) -> list[dict[str, list[Any]]]:
    deployed = Deployed("dep-1", "m", 1, "int8", kind, task)
    found: list[dict[str, list[Any]]] = json.loads(inputs(deployed, Ask(task, 9, True), Texts(4), "a"))[
        "data"
    ]
    return found


def test_a_language_model_streams() -> None:
    data = rows(Kind.LM, Task.GENERATE)
    assert len({row[LmTensors.TEXT_INPUT][0] for row in data}) == len(data) == ROWS
    sampling = json.loads(data[0][LmTensors.SAMPLING_PARAMETERS][0])
    assert sampling == {"max_tokens": 9, "temperature": 0.0, "ignore_eos": True}
    known = {
        LmTensors.TEXT_INPUT,
        LmTensors.STREAM,
        LmTensors.SAMPLING_PARAMETERS,
        LmTensors.EXCLUDE_INPUT_IN_OUTPUT,
        *LmTensors.SWITCHES,
    }
    assert data[0].keys() <= known


@pytest.mark.parametrize(
    ("kind", "task", "tensors"),
    [
        (Kind.CLASSIFIER, Task.CLASSIFY, {HeadTensors.TEXT}),
        (Kind.CLASSIFIER, Task.INFER, {HeadTensors.TEXT, HeadTensors.TEXT_PAIR}),
        (Kind.NLU, Task.NLU, {HeadTensors.TEXT}),
    ],
)
def test_heads_take_texts(kind: Kind, task: Task, tensors: set[str]) -> None:
    assert rows(kind, task)[0].keys() == tensors
