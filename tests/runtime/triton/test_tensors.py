"""What a model declares by itself, for a `config.pbtxt` that names the backend alone."""

from __future__ import annotations

import json

import pytest

from api.back.cluster.installation import Installation
from runtime.contract import Kind, model_config


@pytest.mark.parametrize("kind", Kind)
def test_it_declares_what_the_facade_writes(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Installation.find().python_backend))  # where Triton's Python API lies
    import triton_python_backend_utils as pb_utils

    from runtime.triton.backend import _declare

    config = pb_utils.ModelConfig(json.dumps({"max_batch_size": 0, "input": [], "output": []}))
    _declare(kind, config)
    assert config.as_dict() == model_config(kind)
