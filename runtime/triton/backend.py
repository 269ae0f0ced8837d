"""`TritonPythonModel`, the class that Triton's stub calls. One process runs one version of one model."""

from __future__ import annotations

import functools
import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import triton_python_backend_utils as pb_utils

from runtime.contract import Kind, model_config
from runtime.log_format import FORMAT_VARIABLE, LEVEL_VARIABLE, JsonFormatter
from runtime.manifest import Manifest

P = ParamSpec("P")
T = TypeVar("T")


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
        """Declare the tensors where `config.pbtxt` does not, as the façade's does."""
        _configure_logging()
        if not auto_complete_model_config.as_dict()["output"]:
            _declare(Manifest.load(Path(pb_utils.get_model_dir())).kind, auto_complete_model_config)
        return auto_complete_model_config

    @_with_short_error
    def initialize(self, args: dict[str, str]) -> None:
        """Load the version. Raises where it cannot be served; Triton reports the error and loads nothing."""
        _configure_logging()
        folder = Path(args["model_repository"]) / args["model_version"]
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._adapter = _adapter_of(Manifest.load(folder).kind)(folder, labels)
        # Modules and the model stay until the end. A collection that looks at them stops every request.
        gc.collect()
        gc.freeze()

    def execute(self, requests: list[Any]) -> list[Any] | None:
        return self._adapter.execute(requests)

    def finalize(self) -> None:
        self._adapter.finalize()


def _adapter_of(kind: Kind) -> Callable[[Path, dict[str, str]], Adapter]:
    """Imported here: a process that Triton starts for `auto_complete_config` alone needs no engine."""
    if kind is Kind.LM:
        from runtime.triton.lm import LmAdapter

        return LmAdapter
    from runtime.triton.heads import HeadAdapter

    return HeadAdapter


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


def _declare(kind: Kind, config: Any) -> None:
    """Write the tensors and the batching of a kind into `config`, a `pb_utils.ModelConfig`."""
    declared = model_config(kind)
    config.set_max_batch_size(declared["max_batch_size"])
    if "model_transaction_policy" in declared:
        config.set_model_transaction_policy(declared["model_transaction_policy"])
    if "dynamic_batching" in declared:
        config.set_dynamic_batching()
    for tensor in declared["input"]:
        config.add_input(tensor)
    for tensor in declared["output"]:
        config.add_output(tensor)
