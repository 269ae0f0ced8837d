"""What perf_analyzer sends: a file of inputs for each kind of model, gone through again and again."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

from perf.deployed import Deployed
from perf.http.ask import Ask, Task, halves
from perf.http.prompts import Texts
from runtime.contract import HeadTensors, Kind, LmTensors

ROWS = 512  # distinct inputs


def inputs(deployed: Deployed, ask: Ask, texts: Texts, seed: str) -> str:
    """The JSON of `--input-data`."""
    row = _generate if deployed.kind is Kind.LM else _head
    return json.dumps({"data": [row(text, ask) for text in islice(texts.draw(seed), ROWS)]})


def _generate(text: str, ask: Ask) -> dict[str, list[Any]]:
    return {
        LmTensors.TEXT_INPUT: [text],
        LmTensors.STREAM: [True],
        LmTensors.SAMPLING_PARAMETERS: [json.dumps(ask.sampling)],
        LmTensors.EXCLUDE_INPUT_IN_OUTPUT: [True],
        # perf_analyzer exports every output, also one that was not sent, from memory that nobody wrote. A
        # float from there may be no number, and then the whole export is an empty file. This is the only one.
        "return_cumulative_logprob": [True],
    }


def _head(text: str, ask: Ask) -> dict[str, list[Any]]:
    if ask.task is not Task.INFER:
        return {HeadTensors.TEXT: [text]}
    premise, hypothesis = halves(text)
    return {HeadTensors.TEXT: [premise], HeadTensors.TEXT_PAIR: [hypothesis]}
