"""config.json as programs and people leave it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers.activations import ACT2FN

from export.checkpoint.config import Activation, read_config
from export.checkpoint.folder import Checkpoint
from export.errors import CheckpointError
from tests.export.edits import change_config


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("lm"), tmp_path / "checkpoint"))


def test_activations_are_read_by_every_name_of_their_function() -> None:
    x = torch.linspace(-8, 8, 4001)
    read = {name: found for name in ACT2FN if (found := Activation.named(name)) is not None}
    assert {"gelu_fast", "gelu_python", "gelu_accurate", "gelu_new", "gelu", "relu"} <= read.keys()
    for name, activation in read.items():
        assert torch.allclose(ACT2FN[name](x), ACT2FN[activation.value](x), atol=2e-6), name
    assert not {"silu", "gelu_10", "quick_gelu", "relu2"} & read.keys()


@pytest.mark.parametrize("padding", [-1, 300, 50257])
def test_padding_that_no_text_can_have_is_none(padding: int, folder: Path) -> None:
    change_config(pad_token_id=padding)(folder)
    assert read_config(folder).pad_token_id is None


@pytest.mark.parametrize(
    "changes",
    [{"num_labels": 2}, {"id2label": {"0": "a", "1": "b"}, "num_labels": 3}],
    ids=["known", "unknown"],
)
def test_a_number_of_labels_that_disagrees(
    changes: dict[str, object], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """id2label decides, as in transformers; where the weights do not follow it, it is named."""
    folder = Path(shutil.copytree(checkpoint("classifier"), tmp_path / "checkpoint"))
    change_config(**changes)(folder)
    if "id2label" not in changes:
        assert len(Checkpoint.open(folder).config.labels) == 3
        return
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    message = "config.json: id2label (num_labels without it): 2 names, but score.weight has 3 rows"
    assert (caught.value.field, caught.value.message) == ("id2label", message)


def test_one_label_without_a_problem_type(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """The raw value, and a note: there, transformers' pipeline applies the sigmoid."""
    folder = Path(shutil.copytree(checkpoint("classifier"), tmp_path / "checkpoint"))
    change_config(id2label={"0": "score"})(folder)
    config = read_config(folder)
    assert config.problem_type == "regression"
    assert any("gives the sigmoid of transformers' pipeline" in note for note in config.notes)
    change_config(problem_type="multi_label_classification")(folder)
    config = read_config(folder)
    assert (config.problem_type, config.notes) == ("multi_label_classification", ())
