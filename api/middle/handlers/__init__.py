"""One handler per task type; `TASK_TYPES` names them all, for the Dispatcher and for the API's schema."""

from __future__ import annotations

from typing import Any

from api.middle.handlers.base import Handler, ModelHandler
from api.middle.handlers.convert import ConvertHandler
from api.middle.handlers.generate import EmbedHandler, GenerateHandler, NextHandler, TokenizeHandler
from api.middle.handlers.labels import ClassifyHandler, InferHandler, NluHandler
from api.middle.handlers.score import ScoreHandler
from api.middle.handlers.train import TrainHandler

MODEL_TASKS: tuple[type[ModelHandler[Any, Any]], ...] = (
    GenerateHandler,
    ClassifyHandler,
    InferHandler,
    NluHandler,
    NextHandler,
    ScoreHandler,
    EmbedHandler,
    TokenizeHandler,
)
TASK_TYPES: tuple[type[Handler[Any, Any]], ...] = (*MODEL_TASKS, ConvertHandler, TrainHandler)

__all__ = [
    "MODEL_TASKS",
    "TASK_TYPES",
    "ClassifyHandler",
    "ConvertHandler",
    "EmbedHandler",
    "GenerateHandler",
    "Handler",
    "InferHandler",
    "ModelHandler",
    "NextHandler",
    "NluHandler",
    "ScoreHandler",
    "TokenizeHandler",
    "TrainHandler",
]
