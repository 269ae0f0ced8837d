"""`TritonPythonModel`: what Triton's stub calls. One process runs one version of one model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

import triton_python_backend_utils as pb_utils

from runtime.contract import Kind, Manifest
from runtime.triton.heads import HeadAdapter
from runtime.triton.lm import LmAdapter
from runtime.triton.tensors import declare


class Adapter(Protocol):
    def execute(self, requests: list[Any]) -> list[Any] | None: ...

    def finalize(self) -> None: ...


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """The manifest says what the tensors are; `config.pbtxt` need only name the backend."""
        declare(Manifest.load(Path(pb_utils.get_model_dir())), auto_complete_model_config)
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version; whatever is wrong with it is raised, and Triton reports it and loads nothing."""
        _log_through_triton()
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
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            pb_utils.Logger.log_error(text)
        elif record.levelno >= logging.WARNING:
            pb_utils.Logger.log_warn(text)
        else:
            pb_utils.Logger.log_info(text)


def _log_through_triton() -> None:
    handler = _TritonLog()
    handler.setFormatter(logging.Formatter("[lmaas] %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
