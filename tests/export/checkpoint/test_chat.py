"""The chat template of a checkpoint, from the two files that may hold it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from export.checkpoint.chat import read_chat
from export.errors import CheckpointError


def write(folder: Path, config: Any, jinja: str | None = None) -> None:
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if jinja is not None:
        (folder / "chat_template.jinja").write_text(jinja)


@pytest.mark.parametrize(
    ("config", "jinja", "expected"),
    [
        (None, None, {}),
        ({"eos_token": "</s>"}, None, {}),
        ({"chat_template": "t", "eos_token": "</s>"}, None, {"chat_template": "t", "eos_token": "</s>"}),
        ({"chat_template": "t", "bos_token": {"content": "<s>"}}, None,
         {"chat_template": "t", "bos_token": "<s>"}),
        ({"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}, None,
         {"chat_template": "d"}),
        ({"chat_template": "t"}, "j", {"chat_template": "j"}),
        (None, "j", {"chat_template": "j"}),
        ({"chat_template": 5, "eos_token": None}, None, {}),
    ],
)  # fmt: skip
def test_where_a_template_stands(
    tmp_path: Path, config: Any, jinja: str | None, expected: dict[str, str]
) -> None:
    write(tmp_path, config, jinja)
    assert read_chat(tmp_path) == expected


def test_a_template_that_is_too_long_is_refused(tmp_path: Path) -> None:
    write(tmp_path, None, "x" * 65_537)
    with pytest.raises(CheckpointError, match="65537 characters, but at most 65536"):
        read_chat(tmp_path)
