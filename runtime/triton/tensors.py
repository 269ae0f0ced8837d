"""Tensors and batching of each kind, as Triton's model configuration wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.contract import MAX_HEAD_BATCH, HeadTensors, Kind, LmTensors
from runtime.manifest import Manifest

_LM_OUTPUTS = (
    (LmTensors.TEXT_OUTPUT, "TYPE_STRING", [-1]),
    (LmTensors.DETAILS, "TYPE_STRING", [1]),
    ("finish_reason", "TYPE_STRING", [-1]),
    ("cumulative_logprob", "TYPE_FP32", [-1]),
    ("logprobs", "TYPE_STRING", [-1]),
    ("token_ids", "TYPE_INT64", [-1]),
    ("num_input_tokens", "TYPE_UINT32", [1]),
    ("num_output_tokens", "TYPE_UINT32", [-1]),
)


def declare(manifest: Manifest, config: Any) -> None:
    """Write inputs, outputs and batching into `config`, a `pb_utils.ModelConfig`."""
    if manifest.kind is Kind.LM:
        _declare_lm(config)
    else:
        _declare_heads(manifest, config)


def _declare_lm(config: Any) -> None:
    # The engine batches by itself: it takes every request at once and answers each in many responses.
    config.set_max_batch_size(0)
    config.set_model_transaction_policy({"decoupled": True})
    _add_input(config, LmTensors.TEXT_INPUT, "TYPE_STRING", optional=False)
    _add_input(config, LmTensors.PROMPT_TOKEN_IDS, "TYPE_INT64", [-1], optional=True)
    for name in (LmTensors.SAMPLING_PARAMETERS, LmTensors.OPERATION):
        _add_input(config, name, "TYPE_STRING", optional=True)
    for name in (LmTensors.STREAM, LmTensors.EXCLUDE_INPUT_IN_OUTPUT, *LmTensors.SWITCHES):
        _add_input(config, name, "TYPE_BOOL", optional=True)
    for name, data_type, dims in _LM_OUTPUTS:
        config.add_output({"name": name, "data_type": data_type, "dims": dims})


def _declare_heads(manifest: Manifest, config: Any) -> None:
    config.set_max_batch_size(MAX_HEAD_BATCH)
    config.set_dynamic_batching()
    _add_input(config, HeadTensors.TEXT, "TYPE_STRING", optional=False)
    _add_input(config, HeadTensors.TEXT_PAIR, "TYPE_STRING", optional=True)
    scores = {"name": HeadTensors.SCORES, "data_type": "TYPE_FP32", "dims": [-1]}
    if (
        manifest.labels
    ):  # without labels, as in pure tagging, the scores are empty, which no fixed size can say
        scores["dims"] = [len(manifest.labels)]
    config.add_output(scores)
    config.add_output({"name": HeadTensors.LABEL, "data_type": "TYPE_STRING", "dims": [1]})
    if manifest.kind is Kind.NLU:
        config.add_output({"name": HeadTensors.SLOTS, "data_type": "TYPE_STRING", "dims": [1]})


def _add_input(config: Any, name: str, data_type: str, dims: Sequence[int] = (1,), *, optional: bool) -> None:
    config.add_input({"name": name, "data_type": data_type, "dims": list(dims), "optional": optional})
