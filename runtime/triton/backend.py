"""`TritonPythonModel`, the class that Triton's stub calls. One process runs one version of one model."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import triton_python_backend_utils as pb_utils

from runtime.contract import MAX_HEAD_BATCH, HeadTensors, Kind, LmTensors
from runtime.log_format import FORMAT_VARIABLE, LEVEL_VARIABLE, JsonFormatter
from runtime.manifest import Manifest
from runtime.triton.heads import HeadAdapter
from runtime.triton.lm import LmAdapter

P = ParamSpec("P")
T = TypeVar("T")

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


def _with_short_error(method: Callable[P, T]) -> Callable[P, T]:
    """Log the traceback of an error, and raise the error without it.

    The stub reports the file name of each frame of an error. It reads file names as ASCII, and aborts at one
    that is not ASCII. So the error keeps only the frame of `call`, which gets a plain file name here.
    """

    @functools.wraps(method)
    def call(*arguments: P.args, **named: P.kwargs) -> T:
        try:
            return method(*arguments, **named)
        except Exception as error:
            logging.exception("the model does not load")
            raise error.with_traceback(None) from None

    plain = cast("FunctionType", call)
    plain.__code__ = plain.__code__.replace(co_filename=__name__)
    return call


class Adapter(Protocol):
    def execute(self, requests: list[Any]) -> list[Any] | None: ...

    def finalize(self) -> None: ...


class TritonPythonModel:
    @staticmethod
    @_with_short_error
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Declare the tensors from the manifest; `config.pbtxt` only has to name the backend."""
        _configure_logging()
        _declare(Manifest.load(Path(pb_utils.get_model_dir())), auto_complete_model_config)
        return auto_complete_model_config

    @_with_short_error
    def initialize(self, args: dict[str, str]) -> None:
        """Load the version. Raises where it cannot be served; Triton reports the error and loads nothing."""
        _configure_logging()
        folder = Path(args["model_repository"]) / args["model_version"]
        labels = {"model": args["model_name"], "version": args["model_version"]}
        kind = Manifest.load(folder).kind
        adapter = LmAdapter if kind is Kind.LM else HeadAdapter
        self._adapter: Adapter = adapter(folder, labels)

    def execute(self, requests: list[Any]) -> list[Any] | None:
        return self._adapter.execute(requests)

    def finalize(self) -> None:
        self._adapter.finalize()


class _TritonLog(logging.Handler):
    """Python's log records in Triton's own log."""

    def emit(self, record: logging.LogRecord) -> None:
        # A file name can hold bytes that are not UTF-8, or that the stub's Python could not decode.
        text = self.format(record).encode(errors="surrogateescape").decode(errors="replace")
        if record.levelno >= logging.ERROR:
            pb_utils.Logger.log_error(text)
        elif record.levelno >= logging.WARNING:
            pb_utils.Logger.log_warn(text)
        else:
            pb_utils.Logger.log_info(text)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        request_id = getattr(record, "request_id", "")
        return f"[lmaas] {super().format(record)}" + (f" [{request_id}]" if request_id else "")


class _ModelFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.model = Path(pb_utils.get_model_dir()).parent.name
        return True


def _configure_logging() -> None:
    """Text goes through Triton's own log; JSON beside it, to the same standard error."""
    handler: logging.Handler = _TritonLog()
    handler.setFormatter(_TextFormatter())
    if os.environ.get(FORMAT_VARIABLE) == "json":
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
        handler.addFilter(_ModelFilter())
    level = getattr(logging, os.environ.get(LEVEL_VARIABLE, "info").upper(), logging.INFO)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("runtime").setLevel(level)


def _declare(manifest: Manifest, config: Any) -> None:
    """Write the tensors and the batching of its kind into `config`, a `pb_utils.ModelConfig`."""
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
