"""Models with which an export is compared: each reads the checkpoint itself and shares no code with graphs.

torch, transformers and optimum are imported only where they are used: exports and servers need none of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np

from export.checkpoint.config import Head, ModelConfig
from export.session import Floats, open_session
from export.verification import numpy_gpt2
from export.verification.narrow import narrowed
from runtime.contract import GRAPH_FILE, Variant

TRACED_TOKENS = 16  # optimum's default; shorter contexts need fewer
_OPTIMUM_TASKS = {
    Head.LM: "text-generation",
    Head.SEQUENCE: "text-classification",
    Head.TOKEN: "token-classification",
}


class Unavailable(Exception):
    """The reason why a reference cannot be run. A library that is not installed is an ImportError."""


class Oracle(Protocol):
    title: str  # its name and version

    def logits(self, ids: Sequence[int]) -> list[Floats]:
        """All outputs of the head for one text.

        A language model: `[tokens, vocab]`. A classifier: `[labels]`, read at the last token that is not
        padding. A tagger: `[tokens, slot_labels]`. A joint head: both, intents first.
        """


class TransformersOracle:
    """transformers' own classes on torch, in float32."""

    name = "transformers"

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        import torch
        import transformers

        self._torch = torch
        self._model = load_module(folder, config)
        self.title = f"transformers {transformers.__version__} on torch {torch.__version__}"

    def logits(self, ids: Sequence[int]) -> list[Floats]:
        with self._torch.no_grad():
            outputs = self._model(self._torch.tensor([list(ids)]), use_cache=False, return_dict=False)
        return [output[0].numpy() for output in outputs]


class OptimumOracle:
    """The graph that optimum exports, run by ONNX Runtime: another exporter on the same runtime."""

    name = "optimum"

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        from optimum.exporters.onnx import onnx_export_from_model

        task = _OPTIMUM_TASKS.get(config.head)
        if task is None:
            raise Unavailable(f"it has no export of {config.head.value}")
        with TemporaryDirectory() as scratch:
            model = load_module(folder, config)
            model.config.use_cache = False
            if config.pad_token_id is None:
                # optimum traces with a batch, which needs a padding token: one that is in no text.
                model.config.pad_token_id = config.vocab_size
            try:
                with _quiet():
                    onnx_export_from_model(
                        model,
                        Path(scratch),
                        task=task,
                        do_validation=False,
                        sequence_length=min(TRACED_TOKENS, config.context_length),
                    )
            except Exception as error:  # an error of its tracing is no error of this artifact
                raise Unavailable(f"its export failed: {_first_line(error)}") from error
            del model
            self._session = open_session(Path(scratch) / GRAPH_FILE, Variant.FP32)
        self.title = f"optimum {version('optimum')} (optimum-onnx {version('optimum-onnx')})"

    def logits(self, ids: Sequence[int]) -> list[Floats]:
        row = np.array([list(ids)], np.int64)
        given = {
            "input_ids": row,
            "attention_mask": np.ones_like(row),
            "position_ids": np.arange(row.shape[1])[None],
        }
        wanted = {item.name for item in self._session.get_inputs()}
        inputs = {name: value for name, value in given.items() if name in wanted}
        return [output[0] for output in self._session.run(["logits"], inputs)]


class NumpyOracle:
    """The NumPy GPT-2 of this project, in float32 like the others."""

    name = "numpy"

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self._head = config.head
        self._weights, self._config = numpy_gpt2.load(folder)
        self.title = f"NumPy {np.__version__} GPT-2"

    def logits(self, ids: Sequence[int]) -> list[Floats]:
        inputs = self._weights, self._config, ids, np.float32
        if self._head is Head.LM:
            return [numpy_gpt2.lm_logits(*inputs)]
        if self._head is Head.SEQUENCE:
            return [numpy_gpt2.classifier_logits(*inputs)]
        if self._head is Head.TOKEN:
            return [numpy_gpt2.token_logits(*inputs)]
        return list(numpy_gpt2.nlu_logits(*inputs))


def load_module(folder: Path, config: ModelConfig) -> Any:
    """The torch module in evaluation mode. Raises Unavailable."""
    import torch

    if config.bidirectional:
        raise Unavailable("its attention is causal")
    if config.ngrams is not None:
        raise Unavailable("it has no bag of n-grams")
    try:
        model, loading = _module(config.head).from_pretrained(
            folder,
            dtype=torch.float32,
            # Faster implementations ignore scale_attn_weights and scale_attn_by_inverse_layer_idx.
            attn_implementation="eager",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise Unavailable(f"transformers does not load it: {_first_line(error)}") from error
    # transformers fills missing weights with random numbers.
    if loading["missing_keys"]:
        raise Unavailable(f"transformers does not find {', '.join(sorted(loading['missing_keys']))[:200]}")
    return model.eval()


def _module(head: Head) -> Any:
    import transformers

    return narrowed(_joint_nlu() if head is Head.JOINT else getattr(transformers, head.value))


def _joint_nlu() -> Any:
    """The joint head of this project, which transformers lacks: two linear layers on its GPT2Model."""
    import torch
    from transformers import GPT2Model, GPT2PreTrainedModel

    class JointNlu(GPT2PreTrainedModel):  # type: ignore[misc]  # transformers has no types
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.transformer = GPT2Model(config)
            self.intent_head = torch.nn.Linear(config.n_embd, config.num_labels)
            self.slot_head = torch.nn.Linear(config.n_embd, len(config.slot_labels))
            self.post_init()

        def forward(self, ids: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
            hidden = self.transformer(ids, **options)[0]
            return self.intent_head(hidden[:, -1]), self.slot_head(hidden)

    return JointNlu


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of optimum and torch about their own tracing."""
    from optimum.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
